//! `POST /reload`: the configuration files are read again.

use crate::{answer::Answer, request::Request, routes::Context};

pub(super) async fn post(context: &Context) -> Result<Answer, Answer> {
    Ok(context.ask_dcs(Request::Reload).await)
}
