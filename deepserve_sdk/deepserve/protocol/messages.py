"""Every message that crosses a process boundary, as MessagePack maps tagged by `type`.

A message is the header of a frame (`framing.py`); user values are the frame's payload, opaque
bytes that the controller never looks into, described by the header's `value`. The messages
are defined by the conversation they belong to, and joined here for those who decode them or take part in several.
"""

from __future__ import annotations

from deepserve.protocol.client_messages import Answer as Answer
from deepserve.protocol.client_messages import AttachRequest as AttachRequest
from deepserve.protocol.client_messages import CancelRequest as CancelRequest
from deepserve.protocol.client_messages import ClientMessage
from deepserve.protocol.client_messages import DefineFunction as DefineFunction
from deepserve.protocol.client_messages import ForgetRequest as ForgetRequest
from deepserve.protocol.client_messages import GrantCredit as GrantCredit
from deepserve.protocol.client_messages import ItemFinished as ItemFinished
from deepserve.protocol.client_messages import LeaveStream as LeaveStream
from deepserve.protocol.client_messages import LogOutput as LogOutput
from deepserve.protocol.client_messages import MapEnd as MapEnd
from deepserve.protocol.client_messages import MapInput as MapInput
from deepserve.protocol.client_messages import OpenRequest as OpenRequest
from deepserve.protocol.client_messages import PutBundle as PutBundle
from deepserve.protocol.client_messages import Query as Query
from deepserve.protocol.client_messages import RequestFinished as RequestFinished
from deepserve.protocol.client_messages import RetireFunction as RetireFunction
from deepserve.protocol.client_messages import StreamItems as StreamItems
from deepserve.protocol.link_messages import Hello as Hello
from deepserve.protocol.link_messages import LinkMessage
from deepserve.protocol.link_messages import Refused as Refused
from deepserve.protocol.link_messages import Welcome as Welcome
from deepserve.protocol.map_messages import MapMessage
from deepserve.protocol.message_parts import Clock as Clock
from deepserve.protocol.message_parts import Message as Message
from deepserve.protocol.message_parts import Outcome as Outcome
from deepserve.protocol.message_parts import OutcomeKind as OutcomeKind
from deepserve.protocol.message_parts import PodMemory as PodMemory
from deepserve.protocol.message_parts import RequestKind as RequestKind
from deepserve.protocol.message_parts import Stopped as Stopped
from deepserve.protocol.message_parts import Timings as Timings
from deepserve.protocol.message_parts import Value as Value
from deepserve.protocol.message_parts import Weights as Weights
from deepserve.protocol.pod_messages import SHUTDOWN as SHUTDOWN
from deepserve.protocol.pod_messages import AssignTask as AssignTask
from deepserve.protocol.pod_messages import BindExecutor as BindExecutor
from deepserve.protocol.pod_messages import BundleContent as BundleContent
from deepserve.protocol.pod_messages import CancelReceived as CancelReceived
from deepserve.protocol.pod_messages import CancelTask as CancelTask
from deepserve.protocol.pod_messages import EngineReport as EngineReport
from deepserve.protocol.pod_messages import ExecutorFailed as ExecutorFailed
from deepserve.protocol.pod_messages import ExecutorReady as ExecutorReady
from deepserve.protocol.pod_messages import FetchBundle as FetchBundle
from deepserve.protocol.pod_messages import PodEnding as PodEnding
from deepserve.protocol.pod_messages import PodMessage
from deepserve.protocol.pod_messages import PrepareTask as PrepareTask
from deepserve.protocol.pod_messages import ReleaseTask as ReleaseTask
from deepserve.protocol.pod_messages import SetContextTtl as SetContextTtl
from deepserve.protocol.pod_messages import SleepExecutor as SleepExecutor
from deepserve.protocol.pod_messages import StopPod as StopPod
from deepserve.protocol.pod_messages import TaskBlocked as TaskBlocked
from deepserve.protocol.pod_messages import TaskCredit as TaskCredit
from deepserve.protocol.pod_messages import TaskFinished as TaskFinished
from deepserve.protocol.pod_messages import TaskOutputs as TaskOutputs
from deepserve.protocol.pod_messages import TaskPrepared as TaskPrepared
from deepserve.protocol.pod_messages import TaskReleased as TaskReleased
from deepserve.protocol.pod_messages import TaskResumed as TaskResumed
from deepserve.protocol.template_messages import ForkPod as ForkPod
from deepserve.protocol.template_messages import ForkPods as ForkPods
from deepserve.protocol.template_messages import ForkTemplate as ForkTemplate
from deepserve.protocol.template_messages import PodExited as PodExited
from deepserve.protocol.template_messages import PodForked as PodForked
from deepserve.protocol.template_messages import TemplateFailed as TemplateFailed
from deepserve.protocol.template_messages import TemplateMessage
from deepserve.protocol.template_messages import TemplateReady as TemplateReady
from deepserve.protocol.template_messages import TemplateRefused as TemplateRefused
from deepserve.protocol.template_messages import WeightsFound as WeightsFound
from deepserve.protocol.value_messages import DeleteRef as DeleteRef
from deepserve.protocol.value_messages import DropValue as DropValue
from deepserve.protocol.value_messages import FetchValue as FetchValue
from deepserve.protocol.value_messages import HoldRefs as HoldRefs
from deepserve.protocol.value_messages import PutValue as PutValue
from deepserve.protocol.value_messages import ReleaseRefs as ReleaseRefs
from deepserve.protocol.value_messages import StoreRef as StoreRef
from deepserve.protocol.value_messages import ValueContent as ValueContent
from deepserve.protocol.value_messages import ValueMessage
from deepserve.protocol.value_messages import ValueStored as ValueStored

AnyMessage = LinkMessage | ClientMessage | MapMessage | ValueMessage | PodMessage | TemplateMessage
