"""Buckets: real S3 servers from package registries, in processes of their own, each with an empty bucket.

versitygw checks signatures, checksums and conditions and keeps objects as files; moto keeps all in memory and checks
none of them. Neither may be what correctness rests on.
"""

import os
import pathlib
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from harness.place import CACHE, answers, free_port
from harness.process import Process

KEY, SECRET, REGION, BUCKET = "varve-key", "varve-secret", "us-east-1", "varve"


class S3Server:
    name = "?"

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.port = free_port()
        self.process: Process | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> Process:
        raise NotImplementedError

    def start(self) -> "S3Server":
        """Starts, or starts again: what was stored is still there when the server keeps files."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.process = self.launch()
        self.process.wait_until(f"{self.name} on {self.port}", lambda: answers(self.port))
        self.process.wait_until("bucket", self._bucket)
        return self

    def _bucket(self) -> bool:
        try:
            self.client().create_bucket(Bucket=BUCKET)
        except ClientError as refused:
            return refused.response["Error"]["Code"] in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
        except HTTPClientError:
            return False
        return True

    def stop(self):
        self.process.stop()

    def kill(self):
        self.process.kill()

    def client(self):
        return boto3.client("s3", endpoint_url=self.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
                            region_name=REGION, config=Config(signature_version="s3v4", retries={"max_attempts": 1},
                                                              s3={"addressing_style": "path"}))

    def keys(self, prefix: str = "") -> dict[str, int]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {o["Key"]: o["Size"] for page in pages for o in page.get("Contents", [])}

    # What a broker is told.
    def env(self) -> dict:
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION,
                "AWS_EC2_METADATA_DISABLED": "true"}

    def settings(self, endpoint: str | None = None) -> dict:
        return {"varve.bucket.endpoint": endpoint or self.endpoint, "varve.bucket.region": REGION,
                "varve.bucket.path.style": "true"}

    def url(self, prefix: str = "test") -> str:
        return f"s3://{BUCKET}/{prefix}"


class Versitygw(S3Server):
    name = "versitygw"

    def launch(self) -> Process:
        data, versions = self.directory / "data", self.directory / "versions"
        data.mkdir(exist_ok=True)
        versions.mkdir(exist_ok=True)
        return Process([CACHE / "bin/versitygw", "--quiet", "--port", f"127.0.0.1:{self.port}", "--region", REGION,
                        "posix", "--versioning-dir", versions, data],
                       self.directory / "versitygw.log", {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET})


class Moto(S3Server):
    name = "moto"

    def launch(self) -> Process:
        return Process([pathlib.Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", self.port],
                       self.directory / "moto.log", {k: v for k, v in os.environ.items() if k.startswith("LC_")})


SERVERS = {"versitygw": Versitygw, "moto": Moto}
