"""A small S3 client over presigned requests: only what a footprint needs, and small enough not to weigh on figures."""

import hashlib
import hmac
import http.client
import os
import time
import urllib.parse
import zlib

CHUNK = 1 << 20
SHIFTS = 4096
TIMEOUT_SECONDS = 300
EXPIRY_SECONDS = 86400


class S3:
    """One connection to one endpoint; path style, plain HTTP."""

    def __init__(self, endpoint, keys):
        self.host = urllib.parse.urlsplit(endpoint).netloc
        self.keys = keys
        self.connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT_SECONDS)

    def close(self):
        """Gives the connection back."""
        self.connection.close()

    def put(self, bucket, key, size):
        """Streams `size` bytes that don't repeat themselves block by block; returns seconds and checksum."""
        buffer, checksum, sent = memoryview(os.urandom(CHUNK + SHIFTS)), 0, 0
        begin = time.perf_counter()
        self.connection.putrequest("PUT", self._target("PUT", bucket, key))
        self.connection.putheader("content-length", str(size))
        self.connection.endheaders()
        while sent < size:
            shift = sent // CHUNK % SHIFTS
            chunk = buffer[shift : shift + min(CHUNK, size - sent)]
            self.connection.send(chunk)
            checksum, sent = zlib.crc32(chunk, checksum), sent + len(chunk)
        self._answer().read()
        return time.perf_counter() - begin, checksum

    def get(self, bucket, key):
        """Reads an object to its end; returns seconds, size and checksum."""
        buffer, checksum, size = memoryview(bytearray(CHUNK)), 0, 0
        begin = time.perf_counter()
        self.connection.request("GET", self._target("GET", bucket, key))
        answer = self._answer()
        while got := answer.readinto(buffer):
            checksum, size = zlib.crc32(buffer[:got], checksum), size + got
        return time.perf_counter() - begin, size, checksum

    def page(self, bucket, start_after, keys=1000):
        """One page of a listing; returns seconds and the number of keys on it."""
        query = {"list-type": "2", "max-keys": str(keys), "start-after": start_after}
        target = self._target("GET", bucket, query=query)
        begin = time.perf_counter()
        self.connection.request("GET", target)
        body = self._answer().read()
        return time.perf_counter() - begin, body.count(b"<Key>")

    def _answer(self):
        answer = self.connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"S3 answered {answer.status}: {answer.read()[:500]!r}")
        return answer

    def _target(self, method, bucket, key="", query=None):
        """Path and query, signed (SigV4 in the query, body unsigned)."""
        now = time.gmtime()
        day, moment = time.strftime("%Y%m%d", now), time.strftime("%Y%m%dT%H%M%SZ", now)
        region = self.keys["AWS_REGION"]
        scope = f"{day}/{region}/s3/aws4_request"
        parameters = {
            **(query or {}),
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self.keys['AWS_ACCESS_KEY_ID']}/{scope}",
            "X-Amz-Date": moment,
            "X-Amz-Expires": str(EXPIRY_SECONDS),
            "X-Amz-SignedHeaders": "host",
        }
        path = "/" + bucket + ("/" + urllib.parse.quote(key, safe="/-_.~") if key else "/")
        pairs = sorted((_quoted(name), _quoted(value)) for name, value in parameters.items())
        sent = "&".join(f"{name}={value}" for name, value in pairs)
        request = f"{method}\n{path}\n{sent}\nhost:{self.host}\n\nhost\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        key_ = ("AWS4" + self.keys["AWS_SECRET_ACCESS_KEY"]).encode()
        for word in (day, region, "s3", "aws4_request"):
            key_ = hmac.digest(key_, word.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
        return f"{path}?{sent}&X-Amz-Signature={hmac.digest(key_, text.encode(), 'sha256').hex()}"


def _quoted(text):
    return urllib.parse.quote(text, safe="-_.~")
