"""RQ, with its three kinds of worker."""

from __future__ import annotations

from benchmarks.peers.base import IN_APP, REDIS_URL, SCENARIO, Arguments, Cell, Peer

CLASSES = {"fork": "rq.worker.Worker", "simple": "rq.worker.SimpleWorker", "spawn": "rq.worker.SpawnWorker"}


class RqPeer(Peer):
    """Two workers."""

    name = "rq"
    requirements = ("rq", "hiredis")
    report = ("rq", "redis", "hiredis")
    variants = {
        "fork": "2 x rq worker (default class: fork per job), -q, result_ttl=0",
        "simple": "2 x rq worker -w rq.worker.SimpleWorker, -q, result_ttl=0",
        "spawn": "2 x rq worker -w rq.worker.SpawnWorker, -q, result_ttl=0",
    }
    concurrency = {"fork": 1, "simple": 1, "spawn": 1}
    sizes = {
        ("simple", "noop"): 2_000,
        ("fork", "noop"): 400,
        ("spawn", "noop"): 40,
        ("fork", "result"): 200,
        ("spawn", "result"): 30,
    }
    skip = {
        **{(variant, "io"): "one task per process" for variant in CLASSES},
        **{("spawn", scenario): "too slow to matter" for scenario in ("latency", "result", "crash", "memory")},
    }
    producer_variant = "simple"
    crash_note = (
        "Retry(max=10), job_timeout 5 s, --maintenance-interval 5 (default 600 s), --job-monitoring-interval 5, "
        "--worker-ttl 20 (default 420); the registry of started jobs adds a fixed 60 s"
    )

    def workers(self, cell: Cell) -> list[list[str]]:
        """rq's own command."""
        command = [f"{cell.bindir}/rq", "worker", "-q", "-w", CLASSES[cell.variant], "--disable-job-desc-logging"]
        if cell.scenario == "crash":
            # An idle worker blocks for worker-ttl - 15 s and does no maintenance meanwhile.
            command += ["--maintenance-interval", "5", "--job-monitoring-interval", "5", "--worker-ttl", "20"]
        return [[*command, "-u", cell.url, "bench"]] * 2


PEER = RqPeer()

if IN_APP:
    from redis import Redis
    from rq import Queue, Retry

    from benchmarks.peers import bodies

    TASKS = {body.__name__: body for body in bodies.ALL}

    class Client:
        """The producer."""

        batch_how = "Queue.enqueue_many, 100 a call"

        def __init__(self) -> None:
            self.queue = Queue("bench", connection=Redis.from_url(REDIS_URL))
            self.options: Arguments = {
                "result_ttl": 60 if SCENARIO in ("result", "crash") else 0,
                "description": "t",
                "timeout": 5 if SCENARIO == "crash" else 180,
                **({"retry": Retry(max=10)} if SCENARIO == "crash" else {}),
            }

        def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            self.queue.enqueue_call(TASKS[task], kwargs=arguments, **self.options)

        def send_many(self, task: str, items: list[Arguments]) -> None:
            """Queue many."""
            body = TASKS[task]
            self.queue.enqueue_many([Queue.prepare_data(body, kwargs=item, **self.options) for item in items])

        def call(self, arguments: Arguments) -> object:
            """Run ``add`` and wait."""
            job = self.queue.enqueue_call(TASKS["add"], kwargs=arguments, **self.options)
            value: object = job.latest_result(timeout=30).return_value
            return value
