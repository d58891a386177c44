import deepserve.protocol  # noqa: F401  (before anything else imports msgspec: see there)
