//! Pacemakers that are away, busy or paused, against a client that knows several.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7";

/// A pacemaker that gives these answers, the last one again and again; an empty one never comes.
struct Scripted {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Scripted {
    async fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, answers, Arc::clone(&counted)));
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn answer(
    mut stream: tokio::net::TcpStream,
    answers: &'static [&'static str],
    asked: Arc<AtomicUsize>,
) {
    let mut request = Vec::new();
    loop {
        let mut part = [0; 4_096];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(length) => request.extend_from_slice(&part[..length]),
        }
        let head = request.windows(4).position(|end| end == b"\r\n\r\n");
        let is_whole = match head {
            Some(head) if request.starts_with(b"POST") => request.len() > head + 4,
            Some(_) => true,
            None => false,
        };
        if !is_whole {
            continue;
        }
        request.clear();
        let index = asked.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        if answers[index].is_empty() {
            std::future::pending::<()>().await;
        }
        if stream.write_all(answers[index].as_bytes()).await.is_err() {
            return;
        }
    }
}

fn knowing(endpoints: &[&str]) -> Transport {
    let endpoints: Vec<String> = endpoints.iter().map(|url| (*url).to_owned()).collect();
    Transport::with_token(&endpoints, "token", None).unwrap()
}

#[tokio::test]
async fn the_next_one_is_asked_and_kept_to() {
    let (busy, good) = (
        Scripted::start(&[BUSY]).await,
        Scripted::start(&[DONE]).await,
    );
    let transport = knowing(&["http://127.0.0.1:1", &busy.url, &good.url]);

    for _ in 0..3 {
        let answer: u32 = transport.get("ask", "/", &[]).await.unwrap();
        assert_eq!(answer, 7);
    }

    assert_eq!((busy.asked(), good.asked()), (1, 3));
}

#[tokio::test]
async fn those_who_will_answer_later_are_asked_again() {
    let (one, other) = (
        Scripted::start(&[BUSY]).await,
        Scripted::start(&[BUSY, BUSY, DONE]).await,
    );
    let transport = knowing(&[&one.url, &other.url]);

    let answer: u32 = transport.get("ask", "/", &[]).await.unwrap();

    assert_eq!(answer, 7);
    assert_eq!((one.asked(), other.asked()), (3, 3));
    // A report is soon followed by a newer one, so that it is not sent again.
    let alone = knowing(&[&one.url]);
    let refused = alone.report("report", "/", &1).await.unwrap_err();
    assert_eq!((refused.status(), one.asked()), (Some(503), 4));
}

#[tokio::test]
async fn one_that_is_alone_and_away_is_told_at_once() {
    let began = Instant::now();
    let transport = knowing(&["http://127.0.0.1:1"]);

    let error = transport.get::<u32>("ask", "/", &[]).await.unwrap_err();

    assert!(error.is_unreachable(), "{error}");
    assert!(began.elapsed() < SETTLING_PATIENCE);
}

#[tokio::test]
async fn a_watch_moves_on_with_the_reports_when_a_pacemaker_is_paused() {
    let (paused, good) = (Scripted::start(&[""]).await, Scripted::start(&[DONE]).await);
    let transport = knowing(&[&paused.url, &good.url]);
    let watching = transport.clone();
    let watching = tokio::spawn(async move { watching.watch::<u32>("watch", "/", &[]).await });

    transport.report("report", "/", &1).await.unwrap();

    assert_eq!(watching.await.unwrap().unwrap(), Some(7));
}
