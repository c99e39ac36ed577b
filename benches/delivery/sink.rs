//! What receives the requests: nginx with one worker, or a small server of the benchmark's own.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::options::{Options, SinkKind};
use super::support::process::Process;

/// A running sink, ended when dropped.
pub(crate) struct Sink {
    pub(crate) address: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Sink {
    pub(crate) fn start(options: &Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let address = format!("127.0.0.1:{port}");
        let process = match options.sink {
            SinkKind::Nginx => {
                let path = folder.path().join("nginx.conf");
                fs::write(&path, nginx_conf(port, &folder.path().display().to_string())).expect("a configuration");
                let path = path.display().to_string();
                Process::start("nginx", "nginx", &["-c", &path, "-e", "stderr"], &[])
            }
            SinkKind::Own => {
                let own = std::env::current_exe().expect("the benchmark's own path").display().to_string();
                Process::start("sink", &own, &["sink", &address], &[])
            }
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(std::time::Instant::now() < deadline, "the sink does not listen:\n{}", process.lines().tail(20));
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { address, _process: process, _folder: folder }
    }
}

fn nginx_conf(port: u16, folder: &str) -> String {
    format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 16384; }}
http {{ access_log off; client_header_buffer_size 8k; client_body_buffer_size 64k; client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000; keepalive_timeout 600;
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ add_header X-XCOM-Integration-Echo $http_x_xcom_integration_echo always; return 200; }} }} }}
"
    )
}

/// The child: a server that echoes.
pub(crate) fn child(arguments: &[String]) -> ExitCode {
    let [address] = arguments else { return ExitCode::from(2) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.expect("the address");
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("no delay");
            connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo)));
        }
    })
}

async fn echo(request: Request<hyper::body::Incoming>) -> Result<Response<Empty<bytes::Bytes>>, hyper::Error> {
    let echo = request.headers().get("x-xcom-integration-echo").cloned();
    request.into_body().collect().await?;
    let mut response = Response::new(Empty::new());
    if let Some(echo) = echo {
        response.headers_mut().insert("x-xcom-integration-echo", echo);
    }
    Ok(response)
}
