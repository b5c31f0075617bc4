//! The HTTP side of control's port: JSON for `xylem`, metrics, health. Changes nothing but by
//! preheats.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tonic::service::Routes;

use super::attach;
use super::core::Core;
use super::preheat;
use crate::limits::ORDER_MAX;

/// All that control's port answers, gRPC included.
pub(super) fn router(core: Arc<Core>) -> Router {
    let api = Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/trees", get(trees))
        .route("/api/v1/hops", get(hops))
        .route(
            "/api/v1/preheats",
            post(preheat::start).layer(DefaultBodyLimit::max(ORDER_MAX as usize)),
        )
        .route("/api/v1/preheats/{id}", get(preheat::show))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .with_state(Arc::clone(&core));
    let streams = Routes::new(attach::service(core)).into_axum_router();
    streams.merge(api).fallback(not_found).method_not_allowed_fallback(not_allowed)
}

async fn status(State(core): State<Arc<Core>>) -> Response {
    let now_ms = core.now_ms();
    Json(core.read(|state| state.status(now_ms))).into_response()
}

async fn trees(State(core): State<Arc<Core>>) -> Response {
    Json(core.read(|state| state.trees())).into_response()
}

async fn hops(State(core): State<Arc<Core>>) -> Response {
    Json(core.read(|state| state.hop_table())).into_response()
}

async fn metrics(State(core): State<Arc<Core>>) -> Response {
    let totals = core.read(|state| state.totals());
    match core.metrics.text(totals) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written"),
    }
}

async fn not_found() -> Response {
    error(
        StatusCode::NOT_FOUND,
        "no such path; see /api/v1/status, trees, hops, preheats, /metrics, /healthz",
    )
}

async fn not_allowed() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "the method is not for this path")
}

pub(super) fn error(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}
