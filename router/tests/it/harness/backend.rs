//! Backends: one that speaks HTTP well, and one that does exactly what a test says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use axum::routing::{any, get};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// An application that answers with its name, echoes bodies and shows headers.
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    /// `/wait` answers when a permit is added.
    pub(crate) gate: Arc<Semaphore>,
    pub(crate) requests: Arc<AtomicUsize>,
    reserved: Socket,
    server: tokio::task::JoinHandle<()>,
}

impl Application {
    pub(crate) async fn start(name: &'static str) -> Self {
        let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        reserved.set_reuse_address(true).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        reserved.bind(&any.into()).unwrap();
        Self::start_at(name, reserved).await
    }

    async fn start_at(name: &'static str, reserved: Socket) -> Self {
        let address = reserved.local_addr().unwrap().as_socket().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let waiting = Arc::clone(&gate);
        let routes = Router::new()
            .route("/", any(move || async move { name }))
            .route(
                "/echo",
                any(|request: Request| async { request.into_body() }),
            )
            .route("/collect", any(|body: axum::body::Bytes| async { body }))
            .route("/headers", any(show_headers))
            .route(
                "/path/{*rest}",
                any(|request: Request| async move { request.uri().to_string() }),
            )
            .route(
                "/wait",
                get(move || async move {
                    waiting.acquire().await.unwrap().forget();
                    name
                }),
            )
            .layer(axum::middleware::map_request(move |request: Request| {
                counted.fetch_add(1, Ordering::SeqCst);
                std::future::ready(request)
            }));
        let server = tokio::spawn(async move {
            axum::serve(listener, routes).await.unwrap();
        });
        Self {
            address,
            gate,
            requests,
            reserved,
            server,
        }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn open(&self) {
        self.gate.add_permits(1);
    }

    /// Stops listening; the address refuses when this returns.
    pub(crate) async fn stop(self) -> Gone {
        let address = self.address;
        self.server.abort();
        super::eventually("the listener is gone", || {
            std::net::TcpStream::connect(address).is_err()
        })
        .await;
        let reserved = self.reserved.try_clone().unwrap();
        Gone { address, reserved }
    }
}

/// An application that has ended. Its port stays its own: a test beside this one gets another.
pub(crate) struct Gone {
    pub(crate) address: SocketAddr,
    reserved: Socket,
}

impl Gone {
    /// Starts an application at the same address.
    pub(crate) async fn revive(self, name: &'static str) -> Application {
        Application::start_at(name, self.reserved).await
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn show_headers(request: Request) -> axum::response::Response {
    let mut text = String::new();
    for (name, value) in request.headers() {
        text.push_str(&format!(
            "{name}: {}\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    Body::from(text).into_response()
}

/// A backend that hands each connection to a function of the test.
pub(crate) struct Script {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl Script {
    pub(crate) async fn start<F, S>(serve: S) -> Self
    where
        S: Fn(TcpStream, usize) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, number));
            }
        });
        Self {
            address,
            connections,
            server,
        }
    }

    /// A backend that keeps what it is sent and answers nothing, unless `answer` finds something.
    pub(crate) async fn recording(
        answer: impl Fn(&[u8]) -> Option<&'static [u8]> + Clone + Send + Sync + 'static,
    ) -> (Self, Arc<Mutex<Vec<Vec<u8>>>>) {
        let received: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = Arc::clone(&received);
        let script = Self::start(move |mut stream, _| {
            let (kept, answer) = (Arc::clone(&kept), answer.clone());
            async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let index = {
                    let mut kept = kept.lock().unwrap();
                    kept.push(Vec::new());
                    kept.len() - 1
                };
                let mut buffer = [0; 4096];
                let mut answered = 0;
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let reply = {
                        let mut kept = kept.lock().unwrap();
                        kept[index].extend_from_slice(&buffer[..read]);
                        let reply = answer(&kept[index][answered..]);
                        if reply.is_some() {
                            answered = kept[index].len();
                        }
                        reply
                    };
                    if let Some(reply) = reply
                        && stream.write_all(reply).await.is_err()
                    {
                        return;
                    }
                }
            }
        })
        .await;
        (script, received)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.server.abort();
    }
}
