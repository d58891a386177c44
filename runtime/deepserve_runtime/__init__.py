"""What runs in a pod: template and fork, the pod's agent and lifecycle, the task executors."""

import deepserve.protocol  # noqa: F401  (before anything else imports msgspec: see there)
