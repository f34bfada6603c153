"""The application: every object is made and wired here. Start reading here.

`build_app(settings)` makes a Faust application and the services that hang on it. Faust gives the
lifecycle and runs the low-rate agent on `requests`; whatever may not lose an event is a service
that owns its consumer and commits by itself.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

import faust
import structlog
from mode import Service

from agents.answerer import RequestAnswerer
from agents.candidate_keeper import CandidateKeeper
from agents.catalogue import Catalogue
from agents.describer import Describer
from agents.errors import SettingsError
from agents.evaluator import Evaluator
from agents.exchange.deltas import DeltaExchange, ExchangeConfig
from agents.exchange.handover import HandOver
from agents.exchange.snapshots import SnapshotWriter
from agents.generations import GenerationWatch, RecordFormat, join, newest_format, oldest_format
from agents.http.server import HttpServer
from agents.log_check import grown
from agents.memory import FreedMemory
from agents.metrics import Metrics
from agents.model import Model
from agents.partition_fold import Limits
from agents.ranking import Ranking, RankingRules
from agents.ranking_thread import RankingThread
from agents.requests_transport import RequestsApp
from agents.scorer import ScorerConfig, ScoringService
from agents.settings import Settings
from agents.store_access import fingerprint_of, fold_config_of, store_of
from agents.sweeper import Sweeper
from agents.translate import Translator
from agents.trials import LiveTrials, TrialLog
from agents.updater import KafkaAnnouncer, Parts, ProfileUpdater, wall_clock_ms
from profiles.candidates import Candidates
from profiles.store import ProfileStore
from profiles.view import ItemView
from streams.codec import EventCodec
from streams.consumer import ConsumerConfig
from streams.producer import Producer
from streams.topics import ensure_topics

logger = structlog.get_logger(__name__)


async def prepare(settings: Settings) -> Settings:
    """Before a worker starts: topics and store are there and are the ones we think they are.

    Returns the settings in force: of the live generation. Raises BrokerAway, StoreAway,
    SettingsError and StoreMismatch, each with the way out.
    """
    async with store_of(settings) as store:
        meta = await store.read_meta()
        await prepare_topics(settings, meta.n_partitions if meta else None)
        return await join(settings, store)


async def prepare_topics(settings: Settings, n_folded_from: int | None = None) -> None:
    """Create the topics that are missing; warn of settings that differ from what we declare.

    n_folded_from: partitions that the store's profiles were folded from; None: no profiles yet.
    Raises SettingsError where the partition count differs, LogMismatch where it has changed.
    """
    report = await ensure_topics(settings.kafka, settings.topics().all(), settings.replication)
    for name in report.created:
        logger.info("topic created", topic=name)
    topics = settings.topics()
    for drift in report.drift:
        # The catalogue and the dead letters may have any count; the others find users by it.
        by_user = drift.topic not in (topics.items.name, topics.dead_letters.name)
        if drift.setting == "partitions" and by_user:
            if n_folded_from == settings.partitions and drift.topic == topics.events.name:
                raise grown(drift.topic, n_folded_from, int(drift.actual))
            raise SettingsError(str(drift))  # users would be looked for where they are not
        logger.warning("topic differs from what we declare", drift=str(drift))


class StoreSession(Service):
    """Opens and closes the store."""

    def __init__(self, store: ProfileStore) -> None:
        super().__init__()
        self._store = store

    async def on_start(self) -> None:
        await self._store.start()

    async def on_stop(self) -> None:
        await self._store.close()


class Sending(Service):
    """Opens and closes the producer."""

    def __init__(self, producer: Producer) -> None:
        super().__init__()
        self._producer = producer

    async def on_start(self) -> None:
        await self._producer.start()

    async def on_stop(self) -> None:
        await self._producer.stop()


class Readiness(Service):
    """Started last: from here on the worker serves. Tells whoever waits."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def on_started(self) -> None:
        self.reached.set()
        logger.info("worker ready")


@dataclass
class Worker:
    """One worker's parts, for commands, pages and tests; None where an agent isn't run here."""

    app: faust.App
    settings: Settings
    metrics: Metrics
    store: ProfileStore
    producer: Producer
    readiness: Readiness
    watch: GenerationWatch
    catalogue: Catalogue | None = None
    model: Model | None = None
    view: ItemView | None = None
    updater: ProfileUpdater | None = None
    snapshots: SnapshotWriter | None = None
    exchange: DeltaExchange | None = None
    sweeper: Sweeper | None = None
    candidates: Candidates | None = None
    ranking: Ranking | None = None
    scorer: ScoringService | None = None
    answerer: RequestAnswerer | None = None
    http: HttpServer | None = None
    evaluator: Evaluator | None = None
    services: list[Service] = field(default_factory=list)


def build_app(settings: Settings, number: int = 0) -> Worker:
    """Make one worker.

    number: tells workers on one host and data directory apart, for their group membership.
    """
    topics = settings.topics()
    config = fold_config_of(settings)
    shape = config.shape
    kinds = settings.kinds_table()
    metrics = Metrics()
    store = store_of(settings)
    producer = Producer(
        settings.kafka,
        topics,
        client_id=settings.instance_id(number),
        answer_s=settings.broker_timeout_s,
    )
    roles = set(settings.agents)
    app = _faust_app(settings, number, with_agents="scorer" in roles)
    # Until the first look at the store: what every worker of a mixed installation can read.
    record_format = RecordFormat(oldest_format(settings), reads_to=newest_format(settings))
    watch = GenerationWatch(settings, store, settings.instance_id(number), record_format, metrics)
    worker = Worker(app, settings, metrics, store, producer, Readiness(), watch)
    # First, so that /readyz answers "starting" while catalogue and item table are read.
    worker.http = HttpServer(worker, settings.instance_id(number))
    services: list[Service] = [StoreSession(store), watch, Sending(producer), worker.http]

    if roles & {"catalogue", "updater", "scorer", "dashboard"}:
        catalogue = worker.catalogue = Catalogue(
            settings.kafka, topics.items.name, metrics, settings.broker_timeout_s
        )
        services.append(catalogue)
    parts: Parts | None = None
    if "updater" in roles:
        model = worker.model = Model(config, store, metrics)
        worker.view = model.view
        parts = Parts(
            model=model,
            store=store,
            codec=EventCodec([kind.name for kind in settings.kinds]),
            translator=Translator(kinds, shape.n_tokens),
            kinds=kinds,
            announcer=KafkaAnnouncer(producer, topics.events.name, settings.dead_letter_max_bytes),
            metrics=metrics,
            limits=Limits(
                batch_events=settings.max_batch_events,
                cache_profiles=max(1_000, settings.cache_users // settings.partitions),
                flood=settings.flood_rule(),
                accept_gap=settings.accept_gap,
            ),
            now_ms=wall_clock_ms,
            record_format=record_format,
        )
        if settings.trials_sampling:
            trial_log = TrialLog(producer)
            parts.trials = (LiveTrials(settings.trials_sampling), trial_log)
            services.append(trial_log)  # before the updater: it stops after it, and sends the rest
        consumer = ConsumerConfig(
            bootstrap=settings.kafka,
            topic=topics.events.name,
            group=f"{settings.group}-updater",
            instance_id=f"{settings.instance_id(number)}-updater",
            client_id=settings.instance_id(number),
            session_timeout_ms=settings.session_timeout_ms,
            answer_s=settings.broker_timeout_s,
            buffer_events=settings.buffer_events,
        )
        updater = worker.updater = ProfileUpdater(parts, consumer)
        worker.snapshots = SnapshotWriter(
            model,
            store,
            worker.updater.folds,
            metrics,
            settings.item_snapshot_interval_s,
            wall_clock_ms,
        )
        services += [model, Describer(catalogue, model)]
        if settings.exchange_bytes_per_s:
            worker.exchange = _exchange(settings, worker, model, number, folds=True)
            worker.snapshots.exchange = worker.exchange
            worker.exchange.begin_sharing = worker.snapshots.write
            services.append(worker.exchange)
        hand_over = HandOver(model, worker.snapshots, worker.exchange, lambda: updater.should_stop)
        updater.before_hand_back = hand_over.give
        updater.before_take_over = hand_over.take
        services += [updater, worker.snapshots]
        if config.retention_ms and settings.sweep_keys_per_s:
            worker.sweeper = Sweeper(
                store,
                worker.updater.folds.keys,
                metrics,
                config.retention_ms,
                settings.sweep_keys_per_s,
            )
            services.append(worker.sweeper)
    rules = RankingRules(
        exclude_out_of_stock=settings.exclude_out_of_stock,
        exclude_current=settings.exclude_current,
        exclude_bought=settings.exclude_bought,
        n_reasons=settings.n_reasons,
    )
    if roles & {"scorer", "dashboard"}:
        if worker.view is None:
            # A table of its own, which only follows: it can't stall the fold, nor be stalled.
            reader = Model(config, store, metrics, folds=False)
            worker.view = reader.view
            worker.exchange = _exchange(settings, worker, reader, number, folds=False)
            services += [reader, Describer(catalogue, reader), worker.exchange]
        worker.candidates = Candidates(worker.view, settings.exact_items)
        services.append(CandidateKeeper(worker.candidates))
        worker.ranking = Ranking(worker.view, worker.catalogue, kinds, rules, worker.candidates)
    if "scorer" in roles and worker.view is not None:
        scorer_config = ScorerConfig(
            bootstrap=settings.kafka,
            changes_topic=topics.profile_changes.name,
            group=f"{settings.group}-scorer",
            instance_id=f"{settings.instance_id(number)}-scorer",
            session_timeout_ms=settings.session_timeout_ms,
            answer_s=settings.broker_timeout_s,
            placement=settings.placement,
            n=settings.n_recommendations,
            model_name=f"{settings.generation}/{fingerprint_of(settings)[:12]}",
            now_ms=wall_clock_ms,
        )
        worker.scorer = ScoringService(
            scorer_config,
            # Rankings of their own, as they use threads.
            Ranking(worker.view, worker.catalogue, kinds, rules, worker.candidates),
            store,
            producer,
            metrics,
        )
        if parts is not None:
            parts.foretell = worker.scorer.foretell
        worker.answerer = RequestAnswerer(
            scorer_config,
            shape,
            RankingThread(Ranking(worker.view, worker.catalogue, kinds, rules, worker.candidates)),
            store,
            producer,
            metrics,
            settings.partitions,
            worker.readiness.reached,
        )
        requests = app.topic(
            topics.requests.name, key_serializer="raw", value_serializer="raw", internal=False
        )
        app.agent(requests, name="scorer")(worker.answerer.run)
        services.append(worker.scorer)
    # Without trials of its own there is nothing to read, unless somebody wants it to read others'.
    if "evaluator" in roles and (settings.trials_sampling or "updater" not in roles):
        worker.evaluator = Evaluator(
            settings.kafka,
            topics.trials.name,
            producer,
            metrics,
            settings.trials_window,
            wall_clock_ms,
        )
        services.append(worker.evaluator)
    services += [FreedMemory(), worker.readiness]
    worker.services = services
    for service in services:
        app.service(service)
    return worker


def _exchange(
    settings: Settings, worker: Worker, model: Model, number: int, *, folds: bool
) -> DeltaExchange:
    """What tells this process's table of the others', and the others of it."""
    updater = worker.updater
    return DeltaExchange(
        ExchangeConfig(
            bootstrap=settings.kafka,
            topic=settings.topics().item_deltas.name,
            generation=settings.generation,
            # Each process counts its own messages.
            sender=f"{settings.instance_id(number)}-{os.urandom(4).hex()}",
            sends=folds,
            bytes_per_s=settings.exchange_bytes_per_s,
            snapshot_interval_s=settings.item_snapshot_interval_s,
        ),
        model,
        worker.store,
        worker.producer,
        worker.metrics,
        wall_clock_ms,
        owns_snapshots=lambda: updater is not None and 0 in updater.folds,
    )


def _faust_app(settings: Settings, number: int, *, with_agents: bool) -> faust.App:
    """The Faust application: lifecycle and the requests agent; no web, no topics of its own."""
    app = RequestsApp(
        f"{settings.group}-requests",
        broker=f"kafka://{settings.kafka.replace(',', ';')}",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        reply_create_topic=False,
        datadir=settings.data_dir / f"faust-{settings.instance_id(number)}",
        consumer_auto_offset_reset="latest",  # an old request has nobody waiting for it
        # Killed and started again it takes its own place, without a session time-out in between.
        consumer_group_instance_id=f"{settings.instance_id(number)}-requests",
        broker_session_timeout=settings.session_timeout_ms / 1_000,
        # Faust wants it above the session's; its own 90 s would be the time after which an agent
        # whose connection has gone silent answers again.
        broker_request_timeout=settings.session_timeout_ms / 1_000 + 1,
        broker_heartbeat_interval=settings.session_timeout_ms / 5_000,
        store="memory://",
        autodiscover=False,
    )
    # Without an agent there is nothing to consume, and Faust's consumer would wait for it.
    app.producer_only = not with_agents
    return app
