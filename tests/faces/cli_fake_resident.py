"""The real resident process with the fake engine in place of the real one."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from faces.cli_rig import FakeEngine
from onggi.errors import FailedPrecondition
from onggi.faces import resident


class Engine(FakeEngine):
    @classmethod
    async def open(cls, layout: Any) -> Engine:
        with open(f"{layout.data}/starts", "a") as file:
            file.write(f"{os.getpid()}\n")
        if os.path.exists(f"{layout.data}/broken"):
            raise FailedPrecondition("the records are broken", hint="mend them")
        return cls()

    def watch_need(self, tell: Callable[[bool], None]) -> None:
        """It has no containers."""
        tell(False)


module: Any = types.ModuleType("onggi.engine.engine")
module.Engine = Engine
sys.modules["onggi.engine.engine"] = module

if __name__ == "__main__":
    sys.exit(resident.main())
