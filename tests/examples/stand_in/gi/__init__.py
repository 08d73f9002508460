"""As much of PyGObject as the example uses."""


def require_version(_name: str, _version: str) -> None:
    pass
