"""One model and its sequences: which are queued, which run, and on which Triton."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Collection
from typing import Any

from gateway.engine.fair_queue import FairQueue
from gateway.engine.generation import Generation, GenerationRecord, GenerationRequest
from gateway.engine.replica import Replica
from gateway.engine.sequence import Sequence
from gateway.engine.step import Backend
from gateway.errors import BackendUnavailable, ContextLengthExceeded, InvalidRequest, Overloaded, TidegateError
from gateway.settings import Settings
from gateway.text.model import Model

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 0.5  # seconds between checks for sequences that have waited too long


class Engine:
    """Runs until `close`. If a Triton fails, its sequences resume on another, or on the same one once it is back, within
    ``settings.recovery_timeout`` seconds. The gateway has all their tokens; Triton's KV cache is only a cache."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model = model
        self._settings = settings
        self._queue = FairQueue(settings.max_waiting)
        self._replicas: dict[str, Replica] = {}  # by Triton's address
        self._closed = False
        self._unserved_since: float | None = None  # when the last Triton stopped answering
        self._seconds_per_text = 1.0  # between the ends of consecutive sequences: a moving average
        self._last_end = time.monotonic()
        self._task = asyncio.create_task(self._watch(), name=f"engine {model.name}")

    @property
    def running(self) -> int:
        return sum(len(replica.sequences) for replica in self._replicas.values())

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        return self.running + self.waiting == 0

    @property
    def alive(self) -> bool:
        """Whether all its loops are running. They always should be, until `close`."""
        return self._closed or (not self._task.done() and all(replica.alive for replica in self._replicas.values()))

    @property
    def replicas(self) -> list[Replica]:
        return list(self._replicas.values())

    @property
    def addresses(self) -> set[str]:
        """Addresses of the Tritons that serve this model."""
        return set(self._replicas)

    @property
    def devices(self) -> list[str]:
        """What its Tritons run on: "cpu", "cuda", or both."""
        return sorted({replica.model.parameters["provider"] for replica in self._replicas.values()})

    def add_replica(self, address: str, backend: Backend, model: Model) -> None:
        """``model``: as that Triton describes it. Its number of slots may differ; its fingerprint must not."""
        self._replicas[address] = Replica(address, backend, model, self._settings, self._dispatch, self._put_back)
        self._dispatch()

    async def remove_replica(self, address: str) -> None:
        """Moves its sequences to other replicas, or back to the queue if there are none."""
        replica = self._replicas[address]
        await replica.close()
        del self._replicas[address]
        self._take_back(replica)
        self._dispatch()

    async def close(self, error: TidegateError) -> None:
        """Ends the remaining sequences with ``error``."""
        self._closed = True
        self.end_sequences(error)
        self._task.cancel()
        await asyncio.gather(self._task, *(replica.close() for replica in self._replicas.values()), return_exceptions=True)
        self._replicas.clear()  # they refer to this engine, and the garbage collector may take minutes to notice

    def end_sequences(self, error: TidegateError) -> None:
        """Ends every sequence, running or queued, with ``error``."""
        for replica in self._replicas.values():
            self._take_back(replica)
        for sequence in self._queue.clear():
            sequence.fail(error)

    def generate(self, requests: list[GenerationRequest], record: GenerationRecord, **options: Any) -> Generation:
        """Starts all requests; ``record`` is updated as they progress. ``options``: see `Generation`.

        Raises InvalidRequest, ContextLengthExceeded, Overloaded or BackendUnavailable; then none of them continues.
        """
        generation = Generation(record, self._leave, **options)
        if self.idle:
            self._last_end = time.monotonic()  # idle time does not count toward _seconds_per_text
        try:
            for index, request in enumerate(requests):
                self._check(request)
                sequence = Sequence(request, self.model, index=index, speculation=self._settings.speculation)
                generation.add(sequence)
                self._queue.add(sequence)
                self._dispatch()
        except Exception as error:
            generation.close(error)
            raise
        return generation

    def require_room(self, owner: str) -> None:
        """Raises Overloaded if the queue takes no more sequences from this key. Call it before doing any work."""
        if not self._queue.accepts(owner):
            message = f"{len(self._queue)} requests wait already. Please try again later."
            raise Overloaded(message, retry_after=self._retry_after())

    async def probe(self) -> None:
        """Raises BackendUnavailable unless at least one Triton answers: see `Replica.probe`."""
        results = await asyncio.gather(*(replica.probe() for replica in self._replicas.values()), return_exceptions=True)
        errors = [result for result in results if result is not None]
        if len(errors) == len(results):
            raise errors[0] if errors else BackendUnavailable("No model server has this model.", retry_after=2)

    def _dispatch(self) -> None:
        """Assigns queued sequences to free slots on the least loaded Triton that answers. If any answers, first requeues the
        sequences of failing ones."""
        answering = [replica for replica in self._replicas.values() if replica.failing_since is None]
        if answering:
            for replica in self._replicas.values():
                if replica.failing_since is not None:
                    self._take_back(replica)
        while self._queue and (free := [replica for replica in answering if replica.free_slots]):
            # Break ties at random, so that several gateways do not all pick the same Triton.
            replica = min(free, key=lambda replica: (len(replica.sequences) / replica.model.slots, random.random()))
            replica.add(self._queue.take(self._owners()))

    def _take_back(self, replica: Replica) -> None:
        for sequence in reversed(list(replica.sequences)):
            replica.take_back(sequence)
            self._put_back(sequence)

    def _put_back(self, sequence: Sequence) -> None:
        sequence.lose_cache()
        self._queue.put_back(sequence)

    def _note_end(self) -> None:
        now = time.monotonic()
        self._seconds_per_text += (now - self._last_end - self._seconds_per_text) / 16
        self._last_end = now

    def _owners(self) -> Counter[str]:
        """Number of running sequences per key."""
        return Counter(sequence.request.owner for replica in self._replicas.values() for sequence in replica.sequences)

    def _leave(self, sequence: Sequence) -> None:
        """Removes a sequence whose generation is closed or that has waited too long."""
        if sequence.record.finish_reason is not None:
            self._note_end()
        if self._queue.remove(sequence):
            return
        for replica in self._replicas.values():
            if sequence in replica.sequences:
                replica.remove(sequence)

    async def _watch(self) -> None:
        """Ends sequences that have waited too long for a slot, or for a Triton that answers."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            now = time.monotonic()
            # A sequence in a replica is also waiting if other gateways hold all of that Triton's slots.
            texts = [*self._queue, *(text for replica in self._replicas.values() for text in replica.sequences)]
            patience = self._settings.queue_timeout
            for sequence in [one for one in texts if not one.was_scheduled and now - one.record.arrived > patience]:
                self._leave(sequence)
                message = f"No slot became free within {self._settings.queue_timeout} seconds. Please try again later."
                sequence.fail(Overloaded(message, retry_after=self._retry_after()))
            since = [replica.failing_since for replica in self._replicas.values()]
            if None in since:
                self._unserved_since = None
                continue
            self._unserved_since = self._unserved_since or min((one for one in since if one is not None), default=now)
            if now - self._unserved_since > self._settings.recovery_timeout and not self.idle:
                logger.error("No Triton has answered for %d s: every text ends with an error", self._settings.recovery_timeout)
                self.end_sequences(BackendUnavailable("The model server does not answer. Please try again.", retry_after=2))

    def _retry_after(self) -> int:
        """Seconds until the queue drains, estimated from how fast sequences finished lately."""
        return max(1, min(60, round(len(self._queue) * self._seconds_per_text)))

    def _check(self, request: GenerationRequest) -> None:
        if self._closed:
            raise BackendUnavailable("This model is no longer served. Please try again.", retry_after=2)
        prompt, context = len(request.prompt_tokens), self.model.context_length
        if prompt == 0:
            raise InvalidRequest(f"{request.prompt_field} has no token; it must hold at least one.", param=request.prompt_field)
        if prompt + min(request.max_tokens, 1) > context:
            raise ContextLengthExceeded(
                f"{request.prompt_field} has {prompt} tokens; "
                f"this model's context holds {context}, with at least one for the answer.",
                param=request.prompt_field,
            )
        self._check_tokens(request.prompt_field, request.prompt_tokens)
        self._check_tokens("logit_bias", request.sampling.logit_bias)
        self.require_room(request.owner)

    def _check_tokens(self, field: str, tokens: Collection[int]) -> None:
        lowest, highest = min(tokens, default=0), max(tokens, default=0)
        if not 0 <= lowest <= highest < self.model.vocabulary_size:
            wrong = lowest if lowest < 0 else highest
            allowed = f"this model's tokens are 0 to {self.model.vocabulary_size - 1}"
            raise InvalidRequest(f"{field} names token {wrong}; {allowed}.", param=field)
