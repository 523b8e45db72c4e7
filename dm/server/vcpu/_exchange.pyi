"""The extension module that dm.server.vcpu.native.build makes; see dm/server/vcpu/native/exchange.h."""

from typing import Any

ffi: Any
lib: Any
