"""The scripted engine, but a run of it does not let itself be stopped for a while."""

import time

import fake_engine


class StubbornEngine(fake_engine.FakeEngine):
    def run(self, request):
        if self.state.rbx:
            self.state.rbx = 0
            time.sleep(5)
        return super().run(request)


def create(config):
    return StubbornEngine(config)
