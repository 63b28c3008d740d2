//! A static site as its visitors see it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reqwest::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use reqwest::{Method, Response, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// No visitor waits longer.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn files_directories_and_types_are_served() {
    let site = Site::start().await;

    for (path, content, kind) in [
        ("/", "home", "text/html; charset=utf-8"),
        ("/style.CSS", "body {}", "text/css; charset=utf-8"),
        ("/docs/", "docs", "text/html; charset=utf-8"),
        ("/with%20space.txt", "spaced", "text/plain; charset=utf-8"),
        ("/inside", "home", "application/octet-stream"),
        (
            "/.well-known/security.txt",
            "mail",
            "text/plain; charset=utf-8",
        ),
        ("/empty.json", "", "application/json"),
    ] {
        let response = site.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()[CONTENT_TYPE], kind, "{path}");
        assert_eq!(response.text().await.unwrap(), content, "{path}");
    }
    let response = site.get("/docs?a=1").await;
    assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(response.headers()[LOCATION], "/docs/?a=1");
}

#[tokio::test]
async fn what_is_not_there_or_not_public_is_not_found() {
    let site = Site::start().await;

    for path in [
        "/absent",
        "/.env",
        "/.git/config",
        "/docs/.hidden",
        "/outside",
        "/outside-directory/passwd",
        "/absolute-inside",
        "/pipe",
        "/bare/",
        "/index.html/",
        "/index.html/x",
        "/a%2fb",
        "/%00",
    ] {
        let response = site.get(path).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(response.text().await.unwrap(), "lost?", "{path}");
    }
    fs::remove_file(site.root().join("404.html")).unwrap();
    let response = site.get("/absent").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.text().await.unwrap(), "not found");
}

#[tokio::test]
async fn paths_that_a_client_would_tidy_up_lead_nowhere() {
    let site = Site::start().await;

    for path in [
        "/../secret",
        "/docs/../../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "//../secret",
    ] {
        let answer = site.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ));
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    let answer = site.raw("GET //evil.example/.. HTTP/1.0\r\n\r\n");
    assert!(!answer.contains("ocation"), "{answer}");
}

#[tokio::test]
async fn head_and_other_methods() {
    let site = Site::start().await;

    let response = site.send(Method::HEAD, "/large.bin", &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_LENGTH], "100000");
    assert_eq!(response.bytes().await.unwrap().len(), 0);
    let response = site.send(Method::POST, "/", &[]).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()[ALLOW], "GET, HEAD");
}

#[tokio::test]
async fn unchanged_files_are_not_sent_again() {
    let site = Site::start().await;
    let other = Site::start().await;
    let response = site.get("/").await;
    let tag = response.headers()[ETAG].to_str().unwrap().to_owned();
    let modified = response.headers()[LAST_MODIFIED]
        .to_str()
        .unwrap()
        .to_owned();

    // Every instance says the same of the same content.
    assert_eq!(other.get("/").await.headers()[ETAG], tag);
    for condition in [
        tag.clone(),
        format!("W/{tag}"),
        format!("\"x\", {tag}"),
        "*".to_owned(),
    ] {
        let response = site.get_with("/", &[(IF_NONE_MATCH, &condition)]).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{condition}");
        assert_eq!(response.headers()[ETAG], tag);
    }
    let response = site.get_with("/", &[(IF_MODIFIED_SINCE, &modified)]).await;
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    let conditions = [(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, &*modified)];
    assert_eq!(
        site.get_with("/", &conditions).await.status(),
        StatusCode::OK
    );

    fs::write(site.root().join("index.html"), "HOME").unwrap();
    let response = site.get_with("/", &[(IF_NONE_MATCH, &tag)]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.text().await.unwrap(), "HOME");
}

#[tokio::test]
async fn ranges_are_served() {
    let site = Site::start().await;
    let whole = site.get("/large.bin").await;
    let tag = whole.headers()[ETAG].to_str().unwrap().to_owned();
    let whole = whole.bytes().await.unwrap();

    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=99990-", 99_990, 99_999),
        ("bytes=-5", 99_995, 99_999),
        ("bytes=5-999999999", 5, 99_999),
        ("bytes=-999999999", 0, 99_999),
    ] {
        let response = site.get_with("/large.bin", &[(RANGE, range)]).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(
            response.headers()[CONTENT_RANGE],
            format!("bytes {first}-{last}/100000")
        );
        assert_eq!(response.bytes().await.unwrap(), whole[first..=last]);
    }
    for range in ["bytes=100000-", "bytes=-0"] {
        let response = site.get_with("/large.bin", &[(RANGE, range)]).await;
        assert_eq!(
            response.status(),
            StatusCode::RANGE_NOT_SATISFIABLE,
            "{range}"
        );
        assert_eq!(response.headers()[CONTENT_RANGE], "bytes */100000");
    }
    for range in [
        "bytes=5-4",
        "bytes=a-",
        "bytes=0-1,5-6",
        "lines=1-2",
        "bytes=+1-2",
    ] {
        let response = site.get_with("/large.bin", &[(RANGE, range)]).await;
        assert_eq!(response.status(), StatusCode::OK, "{range}");
    }
    let resumed = site
        .get_with("/large.bin", &[(RANGE, "bytes=1-2"), (IF_RANGE, &tag)])
        .await;
    assert_eq!(resumed.status(), StatusCode::PARTIAL_CONTENT);
    let changed = site
        .get_with("/large.bin", &[(RANGE, "bytes=1-2"), (IF_RANGE, "\"x\"")])
        .await;
    assert_eq!(changed.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_in_flight_at_shutdown_is_finished() {
    let site = Site::start().await;
    fs::write(site.root().join("huge.bin"), vec![7; 30 << 20]).unwrap();
    let idle = TcpStream::connect(site.address).unwrap();
    let response = site.get("/huge.bin").await;

    site.shutdown.cancel();
    let served = tokio::time::timeout(PATIENCE, response.bytes())
        .await
        .unwrap();

    assert_eq!(served.unwrap().len(), 30 << 20);
    let ended = tokio::task::spawn_blocking(move || site.thread.join());
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    ended.unwrap().unwrap();
    drop(idle);
}

#[tokio::test]
async fn the_program_serves_its_port_and_ends_at_sigterm() {
    let root = sample();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut child = Command::new(crate::shim::shim_program())
        .args([
            "static".as_ref(),
            "--root".as_ref(),
            root.path().as_os_str(),
        ])
        .env_clear()
        .env("PM_PORT", address.port().to_string())
        .spawn()
        .unwrap();
    let client = client();
    let url = format!("http://{address}/");
    let text = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(response) = client.get(&url).send().await {
                break response.text().await.unwrap();
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(text.await.unwrap(), "home");

    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();

    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert!(ended.unwrap().success());
}

/// A site that is served by a thread of this test.
struct Site {
    root: tempfile::TempDir,
    address: SocketAddr,
    client: reqwest::Client,
    shutdown: CancellationToken,
    thread: std::thread::JoinHandle<()>,
}

impl Site {
    async fn start() -> Self {
        let root = sample();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = listener.into_std().unwrap();
        let shutdown = CancellationToken::new();
        let (token, path) = (shutdown.clone(), root.path().to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime
                .block_on(async {
                    let listener = TcpListener::from_std(listener).unwrap();
                    heart::static_site::serve(&path, listener, token).await
                })
                .unwrap();
        });
        Self {
            root,
            address,
            client: client(),
            shutdown,
            thread,
        }
    }

    fn root(&self) -> &Path {
        self.root.path()
    }

    async fn get(&self, path: &str) -> Response {
        self.get_with(path, &[]).await
    }

    async fn get_with(
        &self,
        path: &str,
        headers: &[(reqwest::header::HeaderName, &str)],
    ) -> Response {
        self.send(Method::GET, path, headers).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(reqwest::header::HeaderName, &str)],
    ) -> Response {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        request.send().await.unwrap()
    }

    /// What is answered to exactly these bytes.
    fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .build()
        .unwrap()
}

fn sample() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for directory in ["docs", "bare", ".git", ".well-known"] {
        fs::create_dir(at(directory)).unwrap();
    }
    for (name, content) in [
        ("index.html", "home"),
        ("404.html", "lost?"),
        ("style.CSS", "body {}"),
        ("docs/index.html", "docs"),
        ("docs/.hidden", "secret"),
        ("with space.txt", "spaced"),
        (".env", "secret"),
        (".git/config", "secret"),
        (".well-known/security.txt", "mail"),
        ("empty.json", ""),
    ] {
        fs::write(at(name), content).unwrap();
    }
    let noise: Vec<u8> = (0..100_000_u32)
        .map(|n| (n % 251).to_le_bytes()[0])
        .collect();
    fs::write(at("large.bin"), noise).unwrap();
    symlink("index.html", at("inside")).unwrap();
    symlink("/etc/hostname", at("outside")).unwrap();
    symlink("/etc", at("outside-directory")).unwrap();
    symlink(at("index.html"), at("absolute-inside")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    root
}
