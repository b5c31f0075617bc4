//! Preheats over HTTP: orders are checked here, before the state sees any of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use xylem_protocol::names::{NameError, check_host, check_repository};

use super::core::Core;
use super::http::error;
use crate::api::PreheatOrder;
use crate::limits::{IMAGES_MAX, LABEL_MAX};
use crate::state::{Order, PreheatError, SelectorError};

/// Why an order is none.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Nodes(#[from] SelectorError),
    #[error("platforms are {0}, at most {IMAGES_MAX} are accepted")]
    Platforms(usize),
    #[error("platforms are OS/ARCHITECTURE, such as linux/amd64")]
    Platform,
}

/// Starts one, or joins the same.
pub(super) async fn start(
    State(core): State<Arc<Core>>,
    order: Result<Json<PreheatOrder>, JsonRejection>,
) -> Response {
    let order = match order {
        Ok(Json(order)) => order,
        Err(rejection) => return error(rejection.status(), &rejection.body_text()),
    };
    let order = match checked(order) {
        Ok(order) => order,
        Err(reason) => return error(StatusCode::BAD_REQUEST, &reason.to_string()),
    };
    match core.preheat(order) {
        Ok(started) => (StatusCode::ACCEPTED, Json(started)).into_response(),
        Err(reason @ PreheatError::Nobody(_)) => error(StatusCode::NOT_FOUND, &reason.to_string()),
        Err(reason @ PreheatError::TooMany) => {
            error(StatusCode::SERVICE_UNAVAILABLE, &reason.to_string())
        }
    }
}

/// How far one is.
pub(super) async fn show(State(core): State<Arc<Core>>, Path(id): Path<u64>) -> Response {
    let now_ms = core.now_ms();
    match core.read(|state| state.preheat_view(id, now_ms)) {
        Some(preheat) => Json(preheat).into_response(),
        None => error(StatusCode::NOT_FOUND, "no such preheat is remembered"),
    }
}

fn checked(order: PreheatOrder) -> Result<Order, OrderError> {
    let PreheatOrder { registry, name, reference, platforms, nodes } = order;
    check_host(&registry)?;
    check_repository(&name)?;
    let target = reference.parse()?;
    if platforms.len() > IMAGES_MAX as usize {
        return Err(OrderError::Platforms(platforms.len()));
    }
    if platforms.iter().any(|text| text.len() > LABEL_MAX as usize || !text.contains('/')) {
        return Err(OrderError::Platform);
    }
    Ok(Order { registry, name, target, platforms, nodes: nodes.parse()? })
}
