"""A mixed load: each worker writes keys of its own, and some that all share, through random nodes, and checks what it
reads on the way.
"""

import random
import threading

from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, HTTPClientError

from harness import s3 as clients
from record import ABSENT, Key, Shared, Value

#: Small, inline, just over inline, one block, more than one block.
SIZES = [0, 1, 900, 4 << 10, 32 << 10, (32 << 10) + 1, 200 << 10, 4 << 20, (4 << 20) + 1]
SIZE_WEIGHTS = [1, 2, 6, 6, 3, 3, 4, 1, 1]
#: Values of shared keys must not be equal by chance.
SHARED_SIZES = [900, 4 << 10, (32 << 10) + 1, 200 << 10, (4 << 20) + 1]
SHARED_SIZE_WEIGHTS = [6, 4, 4, 2, 1]
PART = 5 << 20
KEYS_PER_WORKER = 24
SHARED_KEYS = 3
BUCKETS_PER_WORKER = 2
BUCKET_NAMES_PER_WORKER = 50
#: What a bucket that exists is in the record: an empty value.
EXISTS = Value(0, 0)

#: Answers that say for certain that nothing was changed.
REFUSED = {400, 403, 404, 409, 412, 416}
#: Codes of single keys in DeleteObjects that leave open what happened.
OPEN_CODES = {"InternalError", "ServiceUnavailable", "SlowDown"}


class Unanswered(Exception):
    """The request was sent; what became of it is not known."""


class NotSent(Exception):
    """Nobody took the request."""


class Broken(Exception):
    """The server did what it must never do."""


class Clients:
    """One client for every node; nothing is retried behind our back."""

    def __init__(self, environment, endpoints):
        options = {"attempts": 1, "connect_timeout": 2, "read_timeout": 20}
        self._clients = [clients.of(environment, endpoint=endpoint, **options) for endpoint in endpoints]

    def any(self, draw):
        return draw.choice(self._clients)

    def all(self):
        return list(self._clients)


def attempt(call, **params):
    """Makes one call; sorts its failures by what they say about the change."""
    try:
        return call(**params)
    except EndpointConnectionError as error:
        raise NotSent(str(error)) from error
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in REFUSED:
            raise
        raise Unanswered(str(error)) from error
    except (HTTPClientError, BotoCoreError) as error:
        raise Unanswered(str(error)) from error


def shared_keys():
    return [Shared(f"shared/{number}") for number in range(SHARED_KEYS)]


class Worker(threading.Thread):
    """The only writer of its keys and buckets. Pauses when asked, ends when asked, keeps its complaints."""

    def __init__(self, number, seed, bucket, clients, gate, shared):
        super().__init__(name=f"worker-{number}", daemon=True)
        self.number, self.bucket, self.clients, self.gate = number, bucket, clients, gate
        self.draw = random.Random(f"{seed}/{number}")
        self.shared = shared
        self.keys = []
        self.retired = []
        self.buckets = []
        self.made = 0
        self.uploads = {}
        self.counts = {}
        self.complaints = []

    def run(self):
        while self.gate.pass_through():
            try:
                self._step()
            except Exception as error:  # A worker that dies silently would make the test pass.
                self.complaints.append(f"{self.name}: {type(error).__name__}: {error}")
                self.gate.leave()
                return

    # One step.

    def _step(self):
        key = self._pick()
        steps = [
            (8, self._put),
            (2, self._create_only),
            (2, self._replace_only),
            (3, self._remove),
            (1, self._remove_many),
            (2, self._copy),
            (1, self._multipart),
            (6, self._read),
            (3, self._read_range),
            (4, self._shared_write),
            (4, self._shared_read),
            (0.5, self._make_bucket),
            (0.5, self._remove_bucket),
        ]
        weights, choices = zip(*steps)
        step = self.draw.choices(choices, weights)[0]
        name = step.__name__.strip("_")
        try:
            step(self.clients.any(self.draw), key)
            self._count(name)
        except NotSent:
            self._count("not sent")
            self.gate.wait_a_little()
        except Unanswered:
            self._count("unanswered")

    def _pick(self):
        if len(self.keys) < KEYS_PER_WORKER:
            self.made += 1
            # Odd names on purpose: they must survive logs and snapshots as well.
            self.keys.append(Key(f"w{self.number}//{self.made % 5}/k {self.made}+é"))
            return self.keys[-1]
        return self.draw.choice(self.keys)

    def _count(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1

    def _new_value(self):
        size = self.draw.choices(SIZES, SIZE_WEIGHTS)[0]
        return Value(size, self.draw.getrandbits(62))

    def _change(self, key, value, call, **params):
        """A change of one key, recorded by what its answer says."""
        try:
            answer = attempt(call, Bucket=self.bucket, Key=key.name, **params)
        except Unanswered:
            key.unanswered(value)
            self._retire(key)
            raise
        key.acknowledged(value, answer.get("ETag") or answer.get("CopyObjectResult", {}).get("ETag"))

    def _retire(self, key):
        self.keys.remove(key)
        self.retired.append(key)

    def _put(self, s3, key):
        value = self._new_value()
        self._change(key, value, s3.put_object, Body=value.bytes())

    def _create_only(self, s3, key):
        value = self._new_value()
        self._conditional(key, key.now is ABSENT, value, s3, IfNoneMatch="*")

    def _replace_only(self, s3, key):
        if key.now is ABSENT or key.etag is None:
            return
        good = self.draw.random() < 0.7
        etag = key.etag if good else '"0123456789abcdef0123456789abcdef"'
        self._conditional(key, good, self._new_value(), s3, IfMatch=etag)

    def _conditional(self, key, should_pass, value, s3, **condition):
        try:
            self._change(key, value, s3.put_object, Body=value.bytes(), **condition)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if should_pass or code != "PreconditionFailed":
                raise Broken(f"{key.name}: {condition} was refused with {code}") from error
            return
        if not should_pass:
            raise Broken(f"{key.name}: {condition} was let through over {key.now}")

    def _remove(self, s3, key):
        self._change(key, ABSENT, s3.delete_object)

    def _remove_many(self, s3, key):
        """Each key by what the answer says of it."""
        keys = list({key.name: key for key in [key, *self.draw.choices(self.keys, k=3)]}.values())
        named = {"Objects": [{"Key": key.name} for key in keys]}
        try:
            answer = attempt(s3.delete_objects, Bucket=self.bucket, Delete=named)
        except Unanswered:
            for key in keys:
                key.unanswered(ABSENT)
                self._retire(key)
            raise
        deleted = {entry["Key"] for entry in answer.get("Deleted", [])}
        errors = {entry["Key"]: entry["Code"] for entry in answer.get("Errors", [])}
        for key in keys:
            if key.name in deleted:
                key.acknowledged(ABSENT)
            elif errors.get(key.name) in OPEN_CODES:
                key.unanswered(ABSENT)
                self._retire(key)
            else:
                raise Broken(f"{key.name}: DeleteObjects says {errors.get(key.name)}")

    def _copy(self, s3, key):
        sources = [other for other in self.keys if other.now is not ABSENT and other is not key]
        if sources:
            source = self.draw.choice(sources)
            self._change(key, source.now, s3.copy_object, CopySource={"Bucket": self.bucket, "Key": source.name})

    def _multipart(self, s3, key):
        """Whole in one step, or left open to be completed in a later one, perhaps after a crash; or given up."""
        if key.name not in self.uploads:
            self.uploads[key.name] = self._begin(s3, key)
            if self.draw.random() < 0.5:
                return
        upload, parts, value = self.uploads.pop(key.name)
        if self.draw.random() < 0.2:
            self._give_up(s3, key, UploadId=upload, MultipartUpload={"Parts": parts})
            return
        self._change(key, value, s3.complete_multipart_upload, UploadId=upload, MultipartUpload={"Parts": parts})

    def _give_up(self, s3, key, **upload):
        """What was aborted can't be completed any more, whatever crashes in between."""
        names = {"Bucket": self.bucket, "Key": key.name}
        attempt(s3.abort_multipart_upload, **names, UploadId=upload["UploadId"])
        try:
            attempt(self.clients.any(self.draw).complete_multipart_upload, **names, **upload)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchUpload":
                raise
            return
        raise Broken(f"{key.name}: an upload that was aborted was completed")

    def _begin(self, s3, key):
        """Until its completion is sent, an upload changes nothing that a reader sees."""
        value = Value(PART + self.draw.choice([1, 100, 40_000]), self.draw.getrandbits(62))
        data = value.bytes()
        names = {"Bucket": self.bucket, "Key": key.name}
        names["UploadId"] = attempt(s3.create_multipart_upload, **names)["UploadId"]
        parts = []
        if self.draw.random() < 0.3:
            # A part that is sent again counts as it was sent last.
            attempt(s3.upload_part, **names, PartNumber=self.draw.choice([1, 2]), Body=b"replaced")
        for number, piece in enumerate([data[:PART], data[PART:]], 1):
            etag = attempt(s3.upload_part, **names, PartNumber=number, Body=piece)["ETag"]
            parts.append({"PartNumber": number, "ETag": etag})
        return names["UploadId"], parts, value

    def _read(self, s3, key):
        if self.retired and self.draw.random() < 0.2:
            key = self.draw.choice(self.retired)
        if complaint := key.seen(read(s3, self.bucket, key.name)):
            raise Broken(complaint)

    def _read_range(self, s3, key):
        """Some bytes of a key whose value is certain."""
        if key.now is ABSENT or key.now.size == 0:
            return
        first = self.draw.randrange(key.now.size)
        last = self.draw.randrange(first, key.now.size + 10)
        found = read(s3, self.bucket, key.name, Range=f"bytes={first}-{last}")
        if found is None or found != key.now.bytes()[first : last + 1]:
            raise Broken(f"{key.name}: bytes {first} to {last} are not those of {key.now}")

    # Keys that all workers write.

    def _shared_write(self, s3, _key):
        key = self.draw.choice(self.shared)
        names = {"Bucket": self.bucket, "Key": key.name}
        if self.draw.random() < 0.2:
            value, call = ABSENT, s3.delete_object
        else:
            value = Value(self.draw.choices(SHARED_SIZES, SHARED_SIZE_WEIGHTS)[0], self.draw.getrandbits(62))
            call, names["Body"] = s3.put_object, value.bytes()
        write = key.begin_write(value)
        try:
            attempt(call, **names)
        except (NotSent, ClientError):
            key.refused(write)
            raise
        key.acknowledged(write)

    def _shared_read(self, s3, _key):
        key = self.draw.choice(self.shared)
        if complaint := read_shared(key, lambda: read(s3, self.bucket, key.name)):
            raise Broken(complaint)

    # Buckets: they are only made and removed, and looked for when all workers stand still.

    def _make_bucket(self, s3, _key):
        there = sum(bucket.is_certain and bucket.now is EXISTS for bucket in self.buckets)
        if there < BUCKETS_PER_WORKER and len(self.buckets) < BUCKET_NAMES_PER_WORKER:
            self.made += 1
            self.buckets.append(Key(f"{self.bucket}-{self.number}-{self.made}"))
            self._change_bucket(self.buckets[-1], EXISTS, s3.create_bucket)

    def _remove_bucket(self, s3, _key):
        there = [bucket for bucket in self.buckets if bucket.is_certain and bucket.now is EXISTS]
        if there:
            self._change_bucket(self.draw.choice(there), ABSENT, s3.delete_bucket)

    def _change_bucket(self, bucket, value, call):
        try:
            attempt(call, Bucket=bucket.name)
        except Unanswered:
            bucket.unanswered(value)
            raise
        bucket.acknowledged(value)


def read_shared(key, call):
    """Reads a shared key; returns a complaint or None."""
    began = key.begin_read()
    try:
        found = call()
    except BaseException:
        key.end_read(began)
        raise
    return key.seen(found, began)


def read(s3, bucket, name, **options):
    """The bytes of a key, or None if there is none."""
    try:
        got = attempt(s3.get_object, Bucket=bucket, Key=name, **options)
        return attempt(got["Body"].read)
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return None
        raise


class Gate:
    """Lets workers run, holds them between two steps, or sends them home."""

    def __init__(self, workers):
        self._changed = threading.Condition()
        self._open = True
        self._over = False
        self._workers = workers
        self._held = 0

    def pass_through(self):
        """Called by workers between steps; False means that it is time to go."""
        with self._changed:
            self._held += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open or self._over)
            self._held -= 1
            return not self._over

    def leave(self):
        """Called by a worker that won't come back."""
        with self._changed:
            self._workers -= 1
            self._changed.notify_all()

    def wait_a_little(self):
        """A pause of a worker that found nobody; ends early when the gate closes."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._over, timeout=0.05)

    def close(self, timeout=120):
        """Holds the workers; returns when all stand still."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
            still = self._changed.wait_for(lambda: self._held == self._workers, timeout)
            assert still, f"{self._workers - self._held} workers did not finish their step in {timeout} s"

    def open(self):
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def end(self):
        with self._changed:
            self._over = True
            self._changed.notify_all()
