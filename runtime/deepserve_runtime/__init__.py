"""What runs in a pod: template and fork, the pod's agent and lifecycle, the task executors."""
