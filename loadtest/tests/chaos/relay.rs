//! Stands between routers and one worker, on the worker's address as all others
//! know it, and does to their connections and messages what networks and
//! operating systems do.

mod meddle;

use std::net::SocketAddr;
use std::sync::mpsc as blocking;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use proto::worker as pb;
use proto::worker::worker_client::WorkerClient;
use proto::worker::worker_server::{Worker, WorkerServer};
use runtime::{Lifecycle, ServeOptions};
use tokio::runtime::{Builder, Runtime};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// What happens to messages on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Meddling {
    /// Each message of a sequence or a transfer comes so much later.
    pub slow: Duration,
    /// Each event comes so much later.
    pub delay: Duration,
    /// Of so many KV events one is lost; 0: none.
    pub lose: u32,
    /// Of so many KV events one changes places with the next; 0: none.
    pub swap: u32,
}

/// A running relay. It has one thread, so that it can freeze as a whole.
pub struct Relay {
    runtime: Option<Runtime>,
    lifecycle: Lifecycle,
    pub address: SocketAddr,
    worker: Option<SocketAddr>,
    route: Arc<Route>,
    frozen: Option<blocking::Sender<()>>,
}

struct Route {
    backend: Mutex<Option<Channel>>,
    meddling: Mutex<Meddling>,
}

impl Relay {
    pub fn start() -> Relay {
        let route = Arc::new(Route {
            backend: Mutex::default(),
            meddling: Mutex::default(),
        });
        let (runtime, lifecycle, address) = serve(&route, SocketAddr::from(([127, 0, 0, 1], 0)));
        Relay {
            runtime: Some(runtime),
            lifecycle,
            address,
            worker: None,
            route,
            frozen: None,
        }
    }

    /// Relays to the worker at `address`.
    pub fn lead_to(&mut self, address: SocketAddr) {
        self.worker = Some(address);
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let _entered = self.runtime.as_ref().expect("it runs").enter();
        *lock(&self.route.backend) = Some(endpoint.connect_lazy());
    }

    pub fn meddle(&self, meddling: Meddling) {
        *lock(&self.route.meddling) = meddling;
    }

    /// Nothing is read or answered any more, and all connections stay up, as
    /// after SIGSTOP.
    pub fn freeze(&mut self) {
        let (frozen_tx, frozen_rx) = blocking::channel::<()>();
        let runtime = self.runtime.as_ref().expect("it runs");
        // The one thread of the runtime waits here.
        runtime.spawn(async move { frozen_rx.recv() });
        self.frozen = Some(frozen_tx);
    }

    pub fn thaw(&mut self) {
        self.frozen = None;
    }

    /// All connections break; new ones can be made at once.
    pub fn cut(&mut self) {
        self.thaw();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
        let (runtime, lifecycle, _) = serve(&self.route, self.address);
        self.runtime = Some(runtime);
        self.lifecycle = lifecycle;
        // The connection to the worker ended with the runtime.
        if let Some(worker) = self.worker {
            self.lead_to(worker);
        }
    }

    /// Ends it, and names what is left running.
    pub fn finish(mut self) -> Result<(), runtime::Late> {
        self.thaw();
        let runtime = self.runtime.take().expect("it runs");
        runtime.block_on(self.lifecycle.finish(Duration::from_secs(10)))
    }
}

fn serve(route: &Arc<Route>, address: SocketAddr) -> (Runtime, Lifecycle, SocketAddr) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime");
    let lifecycle = Lifecycle::new();
    let bound = runtime.block_on(async {
        let listener = runtime::bind(&address.to_string()).await;
        let listener = listener.expect("the port is free");
        let bound = listener.local_addr().expect("it is bound");
        let server = WorkerServer::new(Calls(route.clone()))
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let app = Routes::new(server).prepare().into_axum_router();
        let life = lifecycle.clone();
        lifecycle.spawn("relay", async move {
            runtime::serve(listener, app, &life, ServeOptions::default()).await;
        });
        bound
    });
    (runtime, lifecycle, bound)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Calls(Arc<Route>);

type Answers<T> = BoxStream<'static, Result<T, Status>>;

impl Calls {
    fn backend(&self) -> Result<WorkerClient<Channel>, Status> {
        let channel = lock(&self.0.backend).clone();
        let channel = channel.ok_or_else(|| Status::unavailable("the worker is not there"))?;
        Ok(WorkerClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX))
    }

    fn slowly<T: Send + 'static>(&self, answer: Response<Streaming<T>>) -> Response<Answers<T>> {
        let route = self.0.clone();
        answer.map(|messages| {
            let messages = messages.then(move |message| {
                let slow = lock(&route.meddling).slow;
                async move {
                    tokio::time::sleep(slow).await;
                    message
                }
            });
            messages.boxed()
        })
    }
}

#[tonic::async_trait]
impl Worker for Calls {
    type ModelFilesStream = Answers<pb::ModelFilePart>;
    type GenerateStream = Answers<pb::GenerateEvent>;
    type PrefillStream = Answers<pb::PrefillEvent>;
    type PullKvStream = Answers<pb::KvPart>;
    type SubscribeStream = Answers<pb::WorkerEvent>;

    async fn describe(
        &self,
        request: Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::WorkerDescription>, Status> {
        self.backend()?.describe(request).await
    }

    async fn model_files(
        &self,
        request: Request<pb::ModelFilesRequest>,
    ) -> Result<Response<Self::ModelFilesStream>, Status> {
        let answer = self.backend()?.model_files(request).await?;
        Ok(self.slowly(answer))
    }

    async fn generate(
        &self,
        request: Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let answer = self.backend()?.generate(request).await?;
        Ok(self.slowly(answer))
    }

    async fn prefill(
        &self,
        request: Request<pb::PrefillRequest>,
    ) -> Result<Response<Self::PrefillStream>, Status> {
        let answer = self.backend()?.prefill(request).await?;
        Ok(self.slowly(answer))
    }

    async fn pull_kv(
        &self,
        request: Request<pb::PullKvRequest>,
    ) -> Result<Response<Self::PullKvStream>, Status> {
        let answer = self.backend()?.pull_kv(request).await?;
        Ok(self.slowly(answer))
    }

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let answer = self.backend()?.subscribe(request).await?;
        let route = self.0.clone();
        let meddling = move || *lock(&route.meddling);
        Ok(answer.map(|events| meddle::meddle(events, meddling).boxed()))
    }
}
