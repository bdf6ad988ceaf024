//! The service: starts the parts, serves their RPCs, ends them.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Router, response::Result as HttpResult};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::boot::{Adoption, Boot, BootStatus};
use crate::duties;
use crate::fatal::{Fatal, FatalReason};
use crate::forward::{Forward, HOPS_MAX, LEADER_PATH, LeaderAnswer, LeaderRequest};
use crate::handle::Handle;
use crate::identity::{DiskIdentity, Membership};
use crate::leader::LeaderService;
use crate::local_leader::LocalLeader;
use crate::options::{MetaOptions, OptionsError};
use crate::peers::{self, Adopted, Hello, Peers, Plan, StandingQuestion};
use crate::raft::{self, wire};
use crate::reads::Reads;
use crate::rpc::RpcClient;
use crate::seat::Seat;
use crate::shared::Shared;
use crate::standing::Standing;
use crate::state::{CommandBody, Disk, ReplyBody};

/// What a forwarded request may take here; the node that forwarded it gives up earlier.
const FORWARDED_TIMEOUT: Duration = Duration::from_secs(5);
/// Plans wait here while the boot task asks its own questions; there is one first voter.
const ADOPTIONS_WAITING_MAX: usize = 8;
/// A plan names at most seven disks.
const QUESTION_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("identity.json cannot be used")]
    Identity(#[source] io::Error),
    #[error("no RPC client")]
    Rpc(#[from] reqwest::Error),
}

pub struct MetaService {
    shared: Arc<Shared>,
    adoptions: mpsc::Sender<Adoption>,
    /// Ended by `cancel`; `shutdown` waits for them.
    tasks: JoinSet<()>,
}

impl MetaService {
    /// Returns at once; the rest – joining or founding a cluster, recovery – goes on in the background, and
    /// `Handle::boot_status` says what it waits for. Needs a Tokio runtime.
    pub fn start(options: MetaOptions) -> Result<Self, StartError> {
        options.check()?;
        std::fs::create_dir_all(&options.data_dir).map_err(StartError::Identity)?;
        let disk = DiskIdentity::load_or_create(&options.data_dir).map_err(StartError::Identity)?;
        let seat = Arc::new(Seat::new(disk));
        let rpc = RpcClient::new(options.secrets.clone())?;
        let vital_rpc = RpcClient::new(options.secrets.clone())?;
        let snapshot_rpc = RpcClient::new(options.secrets.clone())?;
        let port = Arc::new(LocalLeader::new(Arc::clone(&seat), Arc::clone(&options.clock)));
        let leader = LeaderService::new(port, Arc::clone(&options.clock), options.timings.clone());
        let forward = Arc::new(Forward::new(Arc::clone(&seat), Arc::clone(&leader), rpc.clone(), vital_rpc.clone()));
        let cancel = CancellationToken::new();
        let fatal = Fatal::default();
        let shared = Arc::new(Shared {
            reads: Reads::start(Arc::clone(&seat), Arc::clone(&forward), fatal.clone(), cancel.clone()),
            peers: Peers::new(rpc),
            options,
            seat,
            vital_rpc,
            snapshot_rpc,
            leader,
            forward,
            fatal: fatal.clone(),
            boot_status: watch::Sender::new(BootStatus::Starting),
            leader_watch: watch::Sender::new(None),
            propose_observer: OnceLock::new(),
            cancel: cancel.clone(),
        });
        let (adoptions, waiting) = mpsc::channel(ADOPTIONS_WAITING_MAX);
        let mut tasks = JoinSet::new();
        let boot = Boot::new(Arc::clone(&shared), waiting);
        let mut spawn = |name: &'static str, work: BoxFuture<'static, ()>| {
            let cancel = cancel.clone();
            tasks.spawn(fatal.clone().guard(name, async move {
                // Cancelled or finished: both are an end.
                let _finished = cancel.run_until_cancelled_owned(work).await;
            }));
        };
        spawn("boot", boot.run().boxed());
        spawn("leadership watch", duties::watch_leadership(Arc::clone(&shared)).boxed());
        spawn("duties", duties::run(Arc::clone(&shared)).boxed());
        spawn("leader", Arc::clone(&shared.leader).run(cancel.clone()).boxed());
        Ok(Self { shared, adoptions, tasks })
    }

    /// All RPCs of the service, to be put under `rpc::authorize` on the RPC listener.
    pub fn routes(&self) -> Router {
        let door = Door { shared: Arc::clone(&self.shared), adoptions: self.adoptions.clone() };
        let questions = Router::new()
            .route(peers::HELLO_PATH, post(hello))
            .route(peers::ADOPT_PATH, post(adopt))
            .route(peers::JOIN_PATH, post(join))
            .route(peers::STANDING_PATH, post(standing))
            .layer(DefaultBodyLimit::max(QUESTION_BYTES_MAX));
        let leader = Router::new()
            .route(LEADER_PATH, post(leader))
            .layer(DefaultBodyLimit::max(wire::BODY_BYTES_MAX + wire::HEADER_BYTES));
        questions.merge(leader).with_state(door).merge(raft::routes(Arc::clone(&self.shared.seat)))
    }

    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// Resolves when something happened that must end the process.
    pub async fn fatal(&self) -> Arc<FatalReason> {
        self.handle().wait_fatal().await
    }

    /// Ends all parts; when it returns, the data directory is free.
    pub async fn shutdown(mut self) {
        self.shared.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
        if let Some(node) = self.shared.seat.node() {
            self.shared.seat.set_node(None);
            node.shutdown().await;
        }
    }
}

impl Drop for MetaService {
    fn drop(&mut self) {
        self.shared.cancel.cancel();
    }
}

/// What the handlers need.
#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    adoptions: mpsc::Sender<Adoption>,
}

async fn hello(State(door): State<Door>) -> Json<Hello> {
    Json(peers::hello_of(&door.shared.seat, &door.shared.options.node_name))
}

/// The bodies are JSON whatever their headers say: they are our own.
fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

async fn adopt(State(door): State<Door>, body: Bytes) -> HttpResult<Json<Adopted>> {
    let plan: Plan = parse(&body)?;
    let (answer, outcome) = oneshot::channel();
    let refused = |why: String| (StatusCode::CONFLICT, why);
    // Once booted, nobody takes plans any more.
    let booted = |_| refused("this disk belongs to a cluster".to_owned());
    door.adoptions.send(Adoption { plan, answer }).await.map_err(|_| booted(()))?;
    outcome.await.map_err(|_| booted(()))?.map_err(|refusal| refused(refusal.to_string()))?;
    Ok(Json(Adopted { disk_id: door.shared.seat.disk().disk_id }))
}

async fn join(State(door): State<Door>, body: Bytes) -> HttpResult<Json<Membership>> {
    let disk: Disk = parse(&body)?;
    let handle = Handle::new(Arc::clone(&door.shared));
    let unavailable = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
    let identity = handle.identity().ok_or_else(|| unavailable("not a member".to_owned()))?;
    // The founding names the first members; nobody may come before it.
    if handle.state().cluster_id != identity.cluster_id {
        return Err(unavailable("the cluster is not founded yet".to_owned()).into());
    }
    let admitted = handle.propose(CommandBody::AdmitDisk { disk }).await;
    match admitted.map_err(|error| unavailable(error.to_string()))?.body {
        ReplyBody::Admitted { raft_id } => Ok(Json(Membership { cluster_id: identity.cluster_id, raft_id })),
        ReplyBody::Refused(refusal) => Err((StatusCode::CONFLICT, format!("not admitted: {refusal}")).into()),
        other => Err((StatusCode::CONFLICT, format!("not admitted: {other:?}")).into()),
    }
}

async fn standing(State(door): State<Door>, body: Bytes) -> HttpResult<Json<Standing>> {
    let question: StandingQuestion = parse(&body)?;
    let StandingQuestion { raft_id, last_log } = question;
    let request = match last_log {
        Some(last_log) => LeaderRequest::LogStanding { raft_id, last_log },
        None => LeaderRequest::Standing { raft_id },
    };
    let answer = door.shared.forward.to_leader(request, HOPS_MAX, FORWARDED_TIMEOUT).await;
    match answer {
        Ok(LeaderAnswer::Standing(standing)) => Ok(Json(standing)),
        Ok(_) | Err(_) => Err((StatusCode::SERVICE_UNAVAILABLE, "no leader").into()),
    }
}

async fn leader(State(door): State<Door>, body: Bytes) -> Response {
    match door.shared.forward.forwarded(&body, FORWARDED_TIMEOUT).await {
        Ok(answer) => answer.into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
