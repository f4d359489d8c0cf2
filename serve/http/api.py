"""The HTTP application: its routes, middleware, OpenAPI document and page. It does not import Ray."""

from __future__ import annotations

from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from serve.http.access_log import AccessLog
from serve.http.error_handlers import add_error_handlers
from serve.http.hosts import HostCheck
from serve.http.open_inference.protocol import InferenceRequest
from serve.http.open_inference.repository_routes import add_repository_routes
from serve.http.open_inference.routes import add_protocol_routes
from serve.http.operator_routes import add_admin_routes, add_model_routes, add_operation_routes
from serve.http.predict.routes import add_predict_routes
from serve.http.schemas import RecordLine
from serve.http.service import Service
from serve.http.site.examples import add_example_routes
from serve.http.site.openapi_examples import add_examples
from serve.http.site.page_routes import add_page_routes
from serve.http.v1_protocol import add_instance_routes, request_type
from serve.http.video_types import body_types
from yt8m_ray import __version__

_ASSETS_PATH = "/docs/assets"
_REFERENCE = "#/components/schemas/{model}"

DESCRIPTION = (
    "Predicts the topics of a video from its YouTube-8M features. Send JSON with one or more videos, or one serialized "
    "tf.train.SequenceExample (frames) or tf.train.Example (means) as application/octet-stream, or a shard of them "
    "as application/x-tfrecord. Without a content-type a body that begins with { or [ is JSON, any other is a record. "
    "Below /v2 are the same models for clients of the Open Inference Protocol, and below /v1/models for those of "
    "KServe's V1 protocol and TensorFlow Serving."
)


def build_api(service: Service, *, sends_ids: bool = True) -> FastAPI:
    """Returns the application; with `sends_ids` its answers have the header x-request-id, which Ray Serve adds too."""
    api = _Api(service, title="yt8m_ray", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    add_error_handlers(api)
    # First: routes are tried in their order.
    add_predict_routes(api, service)
    _add_docs(api)
    add_page_routes(api)
    routes = (add_instance_routes, add_model_routes, add_example_routes, add_repository_routes, add_protocol_routes)
    for add_routes in (*routes, add_operation_routes, add_admin_routes):
        add_routes(api, service)
    api.add_middleware(HostCheck, names=service.args.allowed_hosts)
    # The last middleware is the outermost: a refused host is logged too.
    api.add_middleware(AccessLog, service=service, sends_ids=sends_ids)
    return api


class _Api(FastAPI):
    """FastAPI whose OpenAPI document has the bodies that PlainRoutes read, as the current model takes them."""

    def __init__(self, service: Service, **options: Any) -> None:
        super().__init__(**options)
        self._service = service
        self._described = ("", 0)

    def openapi(self) -> dict[str, Any]:
        model, max_videos = self._service.host.current, self._service.limits.max_videos
        if self._described != (model.version, max_videos):
            self.openapi_schema = None  # else FastAPI returns the document of the model before
            document = super().openapi()
            request = body_types(model.predictor.spec, max_videos).request
            types = {
                each.__name__: each.model_json_schema(ref_template=_REFERENCE)
                for each in (RecordLine, InferenceRequest, request_type(max_videos))
            }
            for name, schema in {**types, "PredictRequest": request.json_schema(ref_template=_REFERENCE)}.items():
                document["components"]["schemas"] |= {**schema.pop("$defs", {}), name: schema}
            add_examples(document, model.predictor)
            self._described = (model.version, max_videos)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _add_docs(api: FastAPI) -> None:
    """Serves the OpenAPI page at /docs with assets from this host; FastAPI's own page loads them from another."""
    # `FastAPIOffline` is a function that makes a plain FastAPI, and cannot make an `_Api`.
    api.mount(_ASSETS_PATH, StaticFiles(directory=str(resources.files("fastapi_offline") / "static")))

    @api.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title="yt8m_ray",
            swagger_js_url=f"{root}{_ASSETS_PATH}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_ASSETS_PATH}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_ASSETS_PATH}/favicon.png",
            swagger_ui_parameters={"validatorUrl": None},  # the default asks a validator on the internet
        )
