"""The whole controller: its parts put together, started, and ended without leaving anything."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.engine_packages import missing_engine_packages
from deepserve.protocol.messages import SHUTDOWN, Hello, SetContextTtl, Welcome
from deepserve_controller.core import actions, events
from deepserve_controller.service.bundles import Bundles
from deepserve_controller.service.client_links import ClientLink, ClientMessages
from deepserve_controller.service.context_queries import context_queries
from deepserve_controller.service.contexts import Contexts
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.folders import ControllerFolders, make_folders
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.handshake import Doorkeeper, python_version
from deepserve_controller.service.host_cores import cores_of_host
from deepserve_controller.service.links import Link
from deepserve_controller.service.listener import Listener
from deepserve_controller.service.log_files import LogFiles
from deepserve_controller.service.logs import Logs
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.loopback_port import LoopbackPort
from deepserve_controller.service.map_relay import MapRelay
from deepserve_controller.service.model_ticks import ModelTicks
from deepserve_controller.service.openai.api_keys import ApiKeys
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.pod_orders import PodOrders
from deepserve_controller.service.pod_provider import MakeProvider, PodProvider
from deepserve_controller.service.prctl import become_subreaper
from deepserve_controller.service.processes import ChildReaper, kill_all_descendants
from deepserve_controller.service.queries import Queries
from deepserve_controller.service.query_body import Body
from deepserve_controller.service.reactor import Reactor, running_reactor, use_reactor
from deepserve_controller.service.recipients import Connection, Recipients
from deepserve_controller.service.requests import Requests
from deepserve_controller.service.results import KeptResults
from deepserve_controller.service.segments import Segments
from deepserve_controller.service.store import MemoryStore, Store
from deepserve_controller.service.template_links import TemplateLinks
from deepserve_controller.settings import Settings, model_policy, runtime_folder

if TYPE_CHECKING:
    from deepserve_controller.service.learned import Learned
    from deepserve_controller.service.up import UpPort


LAST_OUTPUT_S = 0.2
"""For what pods printed at their end, once they are gone."""
GC_THRESHOLDS = (10_000, 20, 50)
"""Rarer than Python's own: what a call allocates is freed by its counts, and a collection delays the call it meets."""


class Controller:
    def __init__(
        self, settings: Settings, folders: ControllerFolders, store: Store, make_provider: MakeProvider
    ) -> None:
        self.settings = settings
        self.folders = folders
        self._make_provider = make_provider
        self.is_ended = False
        self.on_end: Callable[[], None] | None = None
        """Called at the end as well; for whoever hosts the reactor."""
        self.on_ports_close: list[Callable[[], None]] = []
        """Called at the end, while who waits at an HTTP port can still be told."""
        self._reactor = running_reactor()
        self._listeners: list[Listener] = []
        num_cores = len(os.sched_getaffinity(0))
        self._reactor.spin.is_allowed = lambda: len(self.requests.tasks) < num_cores
        self.reaper = ChildReaper()
        self.recipients = Recipients()
        self.segments = Segments(folders.segments)
        policy = model_policy()
        self.cores = CoreLoop(cores_of_host(settings.mode, policy))
        self.functions = Functions(self.cores, scale_model=policy.scale)
        self._model_ticks = ModelTicks(self.cores, self.functions, policy.tick_s)
        self.bundles = Bundles(settings.bundle_bytes, store.bundle)
        self.deployments = Deployments(
            *(store, self.functions, self.bundles, self.cores.cores.cluster_manager.why_never),
            is_embedded=settings.mode == "embedded",
        )
        self.kept = KeptResults(self.segments, settings.kept_ttl_s, settings.kept_bytes, self._reactor.call_at)
        contexts = Contexts(records=store.contexts)
        self.requests = Requests(self.cores, self.recipients, self.functions, self.kept, self.segments, contexts)
        self.functions.is_used = self.requests.is_running
        self.cores.carry(actions.FinishRequest, self.requests.finish)
        self.cores.carry(actions.FinishItem, self.requests.finish_item)
        self.pods = PodLinks(self.cores, self.requests, self.functions, self.bundles, self.recipients)
        self.functions.function_of = self.pods.function_of
        self.templates = TemplateLinks(self.cores, self.pods, self.bundles)
        orders = PodOrders(self.cores, self.requests, self.pods)
        self.maps = MapRelay(self.cores, self.requests, self.pods, orders, folders.segments)
        self.log_files = LogFiles(os.path.join(settings.state_folder, "logs")) if settings.mode == "up" else None
        is_shared = settings.mode == "up"
        self.logs = Logs(self.pods.label_of, self.pods.root_links, self.log_files, is_shared)
        self.queries = Queries(
            {"mode": settings.mode, "controller_id": os.path.basename(folders.private), "socket": folders.socket},
            self.cores,
            self.functions,
            self.deployments,
            self.pods,
            self.requests,
            self.kept,
            self.logs,
            on_shutdown=self.end,
        )
        contexts.on_ttl = lambda label, *ttl: orders.send_to_all(label, SetContextTtl(*ttl))
        self.api_keys = ApiKeys(store.keys, self.recipients)
        self.api_keys.on_revoked.append(contexts.delete_of_key)
        self._loopback: LoopbackPort | None = None
        self.queries.add({**self.api_keys.queries, **context_queries(contexts), "openai_address": self._openai_address})
        self.messages = ClientMessages(self.requests, self.maps, self.functions, self.bundles, self.queries)
        self.pods.messages = self.messages
        self.doorkeeper = Doorkeeper(self._welcome(), self.pods, self.templates, self.logs, self._client)

    def run(self, up: UpPort | None) -> None:
        """Until the owner leaves, a signal comes, or somebody asks for the end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._reactor.on_signal(number, self.end)
        self.reaper.start()
        provider = self._make_provider(
            self.reaper, self.folders.socket, self.templates.start_failed, self.templates.exited
        )
        self.pods.provider = provider
        for environment in dict.fromkeys((self.settings.environment, "python")):
            provider.warm_up(environment)
        self.functions.on_new = lambda spec: provider.warm_up(spec.environment)
        self.listen(self.folders.socket)
        self.cores.give(events.ControllerStarted())
        if self.settings.client_fd >= 0:
            self._take_owner(self.settings.client_fd)
        self._model_ticks.start()
        learned = self._restore()
        if up is not None:
            self.queries.about |= {"url": up.url, "socket": up.socket_path, "options": up.options}
        gc.freeze()  # what is imported and built by now stays: later collections need not look at it
        gc.set_threshold(*GC_THRESHOLDS)
        gc.enable()
        if up is None:
            self._reactor.run_until(lambda: self.is_ended or self._loopback is not None)
            if self._loopback is not None:
                self._loopback.serve(self)
        else:
            up.serve(self)
        if learned is not None:
            learned.write()
        self._shut_down(provider)

    def _restore(self) -> Learned | None:
        """What an earlier controller of the state folder left, in the order in which one part needs the other."""
        if not self.settings.state_folder:
            return None
        from deepserve_controller.service.learned import Learned

        learned = Learned(self.settings.state_folder, self.cores)
        learned.restore_host()
        self.deployments.restore()
        learned.restore_functions()
        return learned

    def end(self) -> None:
        self.is_ended = True
        if self.on_end is not None:
            self.on_end()

    def _openai_address(self, link_id: str, body: Body) -> Body:
        """Where whoever asks finds the OpenAI API, and a key that is good while it is connected."""
        if self.settings.mode == "embedded" and self._loopback is None:
            self._loopback = LoopbackPort()
        url = self._loopback.url if self._loopback is not None else self.queries.about["url"]
        return {"base_url": f"{url}/v1", "api_key": self.api_keys.new_for(link_id)}

    def listen(self, path: str) -> None:
        self._listeners.append(Listener(path, self._open_link))

    def _take_owner(self, fd: int) -> None:
        """The inherited connection is the owner's link and this process's lifeline."""
        os.set_inheritable(fd, False)
        link = Link(self.doorkeeper.greet_owner, self.settings.hello_timeout_s, on_lost=self.end)
        link.open(socket.socket(fileno=fd))

    def _open_link(self, connection: socket.socket) -> None:
        Link(self.doorkeeper.greet, self.settings.hello_timeout_s).open(connection)

    def _client(self, link_id: str, link: Connection, hello: Hello) -> ClientLink:
        return ClientLink(
            link_id, link, hello, self.messages, self.recipients, self.requests, self.functions, self.logs
        )

    def _welcome(self) -> Welcome:
        return Welcome(
            version=PROTOCOL_VERSION,
            controller_id=os.path.basename(self.folders.private),
            mode=self.settings.mode,
            python=python_version(),
            folder=self.folders.private,
            segments=self.folders.segments,
            missing_packages=missing_engine_packages() if self.settings.mode == "up" else (),
        )

    def _shut_down(self, provider: PodProvider) -> None:
        """Exit hooks get their time; then nothing below this process is left."""
        self.pods.stop_all(SHUTDOWN)
        self._reactor.run_until(lambda: not self.pods.pods, self.settings.shutdown_grace_s)
        self._reactor.run_until(lambda: not self.logs.num_open, LAST_OUTPUT_S)
        self.reaper.stop()
        provider.close()
        # Last: a pod that was just starting when the end came finds the door open, not a reason to complain.
        for listener in self._listeners:
            listener.close()
        if self.log_files is not None:
            self.log_files.close()


def run_controller(settings: Settings, make_provider: MakeProvider) -> None:
    """Raises ControllerError where it cannot start."""
    become_subreaper()
    with contextlib.ExitStack() as leaving:
        leaving.callback(kill_all_descendants)
        runtime = runtime_folder()
        store: Store = MemoryStore()
        up = None
        # Imported where needed: an embedded controller has neither a database nor an HTTP server to wait for.
        if settings.state_folder:
            from deepserve_controller.service.private_files import close_to_others
            from deepserve_controller.service.sql_store import SqlStore
            from deepserve_controller.service.state_folder import Claim

            # A script that is run again at once after it was killed: the controller of the first may be ending still.
            wait_s = settings.shutdown_grace_s + 1.0 if settings.mode == "embedded" else 0.0
            text = "{folder} is in use by another controller (process {pid})"
            claim = Claim(settings.state_folder, text, wait_s)
            leaving.callback(claim.release)
            close_to_others(settings.state_folder)
            store = SqlStore(settings.state_folder)
            leaving.callback(store.close)
        if settings.mode == "up":
            from deepserve_controller.service.up import UpPort

            up = UpPort(runtime, settings)
            leaving.callback(up.release)
        folders = make_folders(runtime)
        leaving.callback(folders.remove)
        # Last in, first out: processes end before their folders go.
        leaving.callback(kill_all_descendants)
        reactor = Reactor()
        use_reactor(reactor)
        leaving.callback(reactor.close)
        Controller(settings, folders, store, make_provider).run(up)
