"""The extension module that dm.engine.native.build makes; see dm/engine/native/api.h."""

from typing import Any

ffi: Any
lib: Any
