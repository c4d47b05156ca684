"""What an operator sees: logs with ids, metrics, and traces for a collector when one is configured."""

import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import botocore.exceptions
import pytest
import requests

from harness import s3 as clients
from harness.bodies import body
from harness.command import ANY_PORT, refused
from harness.wait import until

TIMEOUT = 30
JSON = ["--log-format", "json", *ANY_PORT]
CLOSELY = {"SKERRY_LOG": "info,object_s3=debug,skerry=debug"}
# What stands behind the name of a metric in its samples.
SUFFIXES = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}


def request_id(answer):
    return answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"]


def lines(server):
    """The lines of a log in JSON."""
    return [json.loads(line) for line in server.log_text().splitlines() if line.startswith("{")]


def of_request(server, request):
    """The lines about a request."""
    return [line for line in lines(server) if line.get("span", {}).get("request_id") == request]


def metrics(server):
    answer = requests.get(f"{server.url('http')}/metrics", timeout=TIMEOUT)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("\n# EOF\n")
    return answer.text


def value(server, sample):
    """The value of a metric with its labels; None if it is not on the page."""
    for line in metrics(server).splitlines():
        name, _, number = line.rpartition(" ")
        if name == sample:
            return float(number)
    return None


# Logs


def test_a_line_about_a_request_names_its_ids_and_no_secrets(new_server):
    server = new_server().start(*JSON, given=CLOSELY)
    variables = server.environment()
    s3 = clients.of(variables)
    s3.create_bucket(Bucket="logged")
    s3.put_object(Bucket="logged", Key="a-private-name", Body=b"a private body")
    with pytest.raises(botocore.exceptions.ClientError) as refusal:
        s3.get_object(Bucket="logged", Key="another-private-name")
    request = request_id(refusal.value.response)
    (line,) = until(lambda: of_request(server, request))
    assert line["node"] == server.node()["node"]
    assert line["fields"]["code"] == "NoSuchKey"
    span = line["span"]
    assert (span["operation"], span["bucket"], span["status"]) == ("GetObject", "logged", 404)
    assert span["access_key"] == variables["AWS_ACCESS_KEY_ID"]
    text = server.log_text()
    assert "private" not in text and variables["AWS_SECRET_ACCESS_KEY"] not in text
    assert "Signature" not in text and "AWS4-HMAC-SHA256" not in text


def test_a_signature_that_is_wrong_is_logged_with_the_key_that_was_claimed(new_server):
    server = new_server().start(*JSON, given=CLOSELY)
    variables = server.environment() | {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    with pytest.raises(botocore.exceptions.ClientError) as refusal:
        clients.of(variables).list_buckets()
    (line,) = until(lambda: of_request(server, request_id(refusal.value.response)))
    assert line["fields"]["code"] == "SignatureDoesNotMatch"
    assert line["span"]["access_key"] == variables["AWS_ACCESS_KEY_ID"]


def test_administration_has_ids_too(new_server):
    server = new_server().start(*JSON, given=CLOSELY)
    answer = requests.get(f"{server.url('http')}/admin/v1/users", auth=("SKNOBODY", "guess"), timeout=TIMEOUT)
    assert answer.status_code == 401
    (line,) = until(lambda: of_request(server, answer.headers["x-request-id"]))
    assert line["span"]["operation"] == "GET /admin/v1/users"
    assert line["fields"]["why"] == answer.json()["error"]
    assert "guess" not in server.log_text() and "SKNOBODY" not in server.log_text()


def test_the_life_of_a_node_is_in_its_log(new_server):
    server = new_server().start(*JSON)
    until(lambda: "the node is ready" in server.log_text())
    assert server.stop() == 0
    said = [line["fields"]["message"] for line in lines(server)]
    life = ["this machine founds a site", "the node started", "the node is ready", "the node stops", "the node stopped"]
    places = [next(at for at, text in enumerate(said) if text.startswith(words)) for words in life]
    assert places == sorted(places)
    assert {line["node"] for line in lines(server)} == {server.node()["node"]}


def test_lines_for_people_name_their_node(new_server):
    server = new_server().start(*ANY_PORT)
    until(lambda: "the node is ready" in server.log_text())
    (line,) = [line for line in server.log_text().splitlines() if "the node is ready" in line]
    assert line.endswith(f" node={server.node()['node']}")


# Metrics


def test_every_metric_says_what_it_is(new_server):
    server = new_server().start(*ANY_PORT)
    text = metrics(server)
    help_of = dict(re.findall(r"^# HELP (\S+) (\S.*)$", text, re.MULTILINE))
    type_of = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert help_of.keys() == type_of.keys()
    assert all(re.search(r"[^.]\.$", words) for words in help_of.values()), help_of
    families = [name for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)]
    assert len(families) == len(set(families)), "each family stands once"
    samples = {name + suffix for name, kind in type_of.items() for suffix in SUFFIXES[kind]}
    for line in text.splitlines():
        if not line.startswith("#"):
            assert re.match(r"[a-z0-9_]+", line)[0] in samples, line
            float(line.rpartition(" ")[2])
    for name in [
        "skerry_blocks_debt",
        "skerry_disk_free_bytes",
        "skerry_groups_led",
        "skerry_raft_lag_entries_max",
        "skerry_raft_term_changes_total",
        "skerry_wal_bytes",
        "skerry_wal_syncs_total",
        "skerry_certificate_expires_seconds",
        "skerry_otel_spans_dropped_total",
    ]:
        assert name in samples, name
    assert value(server, "skerry_groups_led") == value(server, "skerry_groups")
    assert value(server, "skerry_disk_free_bytes") > 0
    status = server.status()
    assert status["debt"] == 0 and status["nodes"][0]["debt"] == 0


def test_requests_are_counted_by_operation_and_class(new_server):
    server = new_server().start(*ANY_PORT)
    s3 = clients.of(server.environment())
    s3.create_bucket(Bucket="counted")
    s3.put_object(Bucket="counted", Key="key", Body=body(100))
    for _ in range(3):
        s3.get_object(Bucket="counted", Key="key")["Body"].read()
    with pytest.raises(botocore.exceptions.ClientError):
        s3.get_object(Bucket="counted", Key="none")
    of_get = 'door="s3",operation="GetObject"'
    until(lambda: value(server, f'skerry_requests_total{{{of_get},status="4xx"}}') == 1)
    until(lambda: value(server, f'skerry_requests_total{{{of_get},status="2xx"}}') == 3)
    assert value(server, f'skerry_request_seconds_bucket{{le="+Inf",{of_get}}}') == 4
    assert value(server, f"skerry_request_seconds_count{{{of_get}}}") == 4
    assert value(server, 'skerry_connections{door="s3"}') >= 1


def test_the_status_for_people_shows_the_debt(new_server):
    server = new_server().start(*ANY_PORT)
    assert "  debt 0  " in server.run("status").stdout.splitlines()[0]


# Traces


class Collector:
    """Takes whatever is sent."""

    def __init__(self):
        self.heard = heard = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                sent = self.rfile.read(int(self.headers["content-length"]))
                heard.append((self.path, dict(self.headers.items()), sent))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def with_words(self, words):
        return [message for message in self.heard if words.encode() in message[2]]


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.close()


def test_a_configured_collector_gets_a_span_for_a_request(new_server, collector, tmp_path):
    headers = tmp_path / "headers"
    headers.write_text("# who we are\nx-collector-key: the-secret-of-the-collector\n")
    flags = ["--otel-endpoint", collector.url, "--otel-headers-file", headers]
    server = new_server().start(*flags, *ANY_PORT)
    variables = server.environment()
    s3 = clients.of(variables)
    request = request_id(s3.create_bucket(Bucket="traced"))
    (path, sent_headers, sent), *_ = until(lambda: collector.with_words(request))
    assert path == "/v1/traces"
    lower = {name.lower(): text for name, text in sent_headers.items()}
    assert lower["content-type"] == "application/x-protobuf"
    assert lower["x-collector-key"] == "the-secret-of-the-collector"
    # Texts stand in protobuf as they are.
    for words in ["skerry", "s3 CreateBucket", "traced", variables["AWS_ACCESS_KEY_ID"]]:
        assert words.encode() in sent, words
    assert variables["AWS_SECRET_ACCESS_KEY"].encode() not in sent
    until(lambda: value(server, "skerry_otel_spans_sent_total") > 0)
    assert "the-secret-of-the-collector" not in server.log_text()


def test_a_stop_sends_what_is_left(new_server, collector):
    server = new_server().start("--otel-endpoint", collector.url, *ANY_PORT)
    request = request_id(clients.of(server.environment()).create_bucket(Bucket="last"))
    assert server.stop() == 0
    assert collector.with_words(request)


def test_nothing_is_sent_without_the_key(new_server, collector):
    # The variables that OpenTelemetry's own libraries go by say nothing to us.
    elsewhere = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
        "OTEL_TRACES_EXPORTER": "otlp",
    }
    server = new_server().start(*ANY_PORT, given=elsewhere)
    clients.of(server.environment()).create_bucket(Bucket="quiet")
    assert value(server, "skerry_otel_spans_sent_total") == 0
    # What is left would be sent now.
    assert server.stop() == 0
    assert collector.heard == []


def test_no_trace_is_sent_of_requests_that_are_not_sampled(new_server, collector):
    flags = ["--otel-endpoint", collector.url, "--otel-sample-ratio", "0"]
    server = new_server().start(*flags, *ANY_PORT)
    clients.of(server.environment()).create_bucket(Bucket="unseen")
    assert server.stop() == 0
    assert collector.heard == []


def test_a_collector_that_is_gone_costs_traces_not_requests(new_server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        # Nobody listens there.
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        server = new_server().start("--otel-endpoint", endpoint, *ANY_PORT)
        s3 = clients.of(server.environment())
        s3.create_bucket(Bucket="alone")
        until(lambda: value(server, "skerry_otel_spans_dropped_total") > 0)
        s3.put_object(Bucket="alone", Key="key", Body=b"kept")
        assert s3.get_object(Bucket="alone", Key="key")["Body"].read() == b"kept"
        assert "the collector does not take traces" in server.log_text()
        assert server.stop() == 0


def test_a_collector_that_never_answers_holds_nothing_up(new_server):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        server = new_server().start("--otel-endpoint", endpoint, *ANY_PORT)
        s3 = clients.of(server.environment())
        s3.create_bucket(Bucket="silent")
        for at in range(50):
            s3.put_object(Bucket="silent", Key=str(at), Body=b"kept")
        assert server.stop() == 0


def test_what_a_collector_can_not_be_reached_by_is_refused_at_the_start(binary, process_lock, tmp_path):
    data = ["--data", tmp_path / "data", *ANY_PORT]
    line = refused(binary, "server", "--otel-endpoint", "c.lan:4318", *data)
    assert "--otel-endpoint" in line and "http://" in line
    headers = tmp_path / "headers"
    headers.write_text("the-secret-of-the-collector\n")
    flags = ["--otel-endpoint", "http://c.lan:4318", "--otel-headers-file", headers]
    line = refused(binary, "server", *flags, *data)
    assert str(headers) in line and "line 1" in line and "the-secret" not in line
    assert not (tmp_path / "data").exists()
