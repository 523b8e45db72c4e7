"""The extension module that dm.engine.native.build makes; dm/engine/native/api.h declares what ``lib`` holds."""

from typing import Any

ffi: Any
lib: Any
