"""The HTTP application: the thinnest layer over recsys/scoring. Importing it imports no TensorFlow."""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from recsys import __version__
from recsys.config.serve import ServeConfig
from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID
from recsys.scoring.bundle import LoadedBundle
from recsys.scoring.query import Query
from serving.messages import Health, RecommendedItem, RecommendRequest, RecommendResponse


@dataclass
class Service:
    """What the endpoints share: the settings, and the bundle once it is warm."""

    config: ServeConfig
    bundle: LoadedBundle | None = None


@dataclass
class Stopwatch:
    """Milliseconds of consecutive steps."""

    started: float = field(default_factory=time.perf_counter)
    steps: dict[str, float] = field(default_factory=dict)

    def mark(self, step: str) -> None:
        """End a step."""
        elapsed = 1e3 * (time.perf_counter() - self.started)
        self.steps[step] = round(elapsed - sum(self.steps.values()), 3)

    def timings(self) -> dict[str, float]:
        """All steps, and `total`."""
        return {**self.steps, "total": round(sum(self.steps.values()), 3)}


def answer(bundle: LoadedBundle, config: ServeConfig, request: RecommendRequest) -> RecommendResponse:
    """Answer one request; raises UserError naming the part of it that the bundle cannot take."""
    k = request.k or config.default_k
    if k > config.max_k:
        raise UserError(f"k: {k} items asked for, expected at most {config.max_k} (serve.max_k).")
    if len(request.history or ()) > config.max_history:
        raise UserError(
            f"history: {len(request.history or ())} items, expected at most {config.max_history} (serve.max_history)."
        )
    watch = Stopwatch()
    query = Query(request.user, request.features, request.context, request.history)
    found = bundle.recommend([query], k, exclude_seen=request.exclude_seen, mark=watch.mark)[0]
    return RecommendResponse(
        bundle=bundle.bundle_id,
        known_user=bool(bundle.encoder.user_ids([query])[0] >= FIRST_VALUE_ID),
        known_history=_known_history(bundle, request.history),
        items=[RecommendedItem(**asdict(one)) for one in found],
        timings_ms=watch.timings(),
    )


def _known_history(bundle: LoadedBundle, history: list[str] | None) -> int | None:
    return None if history is None else len(history) - len(bundle.unknown_items(history))


def create_app(service: Service) -> FastAPI:
    """The application; it answers 503 until `service.bundle` is there."""
    app = FastAPI(title="recsys", version=__version__)

    @app.exception_handler(UserError)
    def refused(request: Request, error: UserError) -> Response:
        """A request that is well formed but asks for what the bundle lacks; the same shape as pydantic's refusals."""
        return _refusal([{"loc": ["body"], "msg": str(error), "type": "request"}])

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        """Where and why, without the input: NaN, say, can be parsed but not be sent back."""
        return _refusal([{name: problem[name] for name in ("loc", "msg", "type")} for problem in error.errors()])

    # A plain function: the framework runs it in a thread, where TensorFlow and FAISS release the interpreter.
    @app.post("/v1/recommend", response_model=RecommendResponse)
    def recommend(request: RecommendRequest) -> RecommendResponse | Response:
        """Recommend items to a known user, or to someone described by raw features, context and history."""
        return _not_ready() if service.bundle is None else answer(service.bundle, service.config, request)

    @app.get("/health/live")
    def live() -> Health:
        """The process runs."""
        return Health(status="live")

    @app.get("/health/ready", response_model=Health)
    def ready() -> Health | Response:
        """The bundle is loaded and warm; 503 before."""
        return _not_ready() if service.bundle is None else Health(status="ready", bundle=service.bundle.bundle_id)

    return app


def _refusal(problems: list[dict[str, Any]]) -> Response:
    # In ASCII: names in a request may hold what UTF-8 cannot (lone surrogates).
    return Response(json.dumps({"detail": problems}), status_code=422, media_type="application/json")


def _not_ready() -> JSONResponse:
    detail = {"detail": "the bundle is still being loaded; ask again"}
    return JSONResponse(detail, status_code=503, headers={"Retry-After": "1"})
