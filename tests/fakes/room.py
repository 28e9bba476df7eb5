"""ports.Room in memory."""


class FakeRoom:
    """There is room until a test says otherwise."""

    def __init__(self) -> None:
        self.is_free = True

    async def free(self) -> bool:
        return self.is_free
