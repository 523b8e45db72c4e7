"""The extension module that dm.server.native.build makes; see dm/server/native/exchange.h."""

from typing import Any

ffi: Any
lib: Any
