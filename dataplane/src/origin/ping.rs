//! Whether a registry can be reached, for whoever looks for what is wrong. Gives no credentials and
//! remembers nothing.

use std::time::{Duration, SystemTime};

use reqwest::Method;
use reqwest::header::{DATE, HeaderMap};

use super::registry::header;
use super::{Credentials, OriginError, Registry};

/// What a registry answered to `GET /v2/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Status code; 401 and 403 are a registry's too.
    pub status: u16,
    /// Its clock, cut to a second.
    pub date: Option<SystemTime>,
}

impl Registry {
    /// Asks whether it is a registry.
    ///
    /// # Errors
    /// [`OriginError`]: no answer within `wait`, or none at all.
    pub async fn ping(&self, wait: Duration) -> Result<Ping, OriginError> {
        let nobody = Credentials::Client(None);
        let url = self.url("")?;
        let asked = self.ask(Method::GET, url, "", HeaderMap::new(), Some(wait), &nobody);
        let response = asked.await?;
        let date = header(&response, DATE.as_str());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        Ok(Ping { status: response.status().as_u16(), date })
    }
}
