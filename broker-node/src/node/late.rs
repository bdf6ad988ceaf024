//! Routes of parts that exist only once the node has an identity. Until then they answer 503, so that a caller retries.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

#[derive(Clone, Default)]
pub struct LateRoutes(Arc<OnceLock<Router>>);

impl LateRoutes {
    /// Once; a second set of routes would be a second node in one process, so the first stays.
    pub fn set(&self, routes: Router) {
        let _ = self.0.set(routes);
    }

    pub async fn answer(self, request: Request) -> Response {
        match self.0.get() {
            None => (StatusCode::SERVICE_UNAVAILABLE, "this node is still starting").into_response(),
            Some(routes) => match routes.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never as Infallible {},
            },
        }
    }
}
