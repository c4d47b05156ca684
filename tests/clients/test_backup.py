"""restic keeps its backups here: many small objects, lists, deletes, and its own proof that nothing is missing."""

from test_folders import folder, home, program, run, tree  # noqa: F401


def test_backup_check_and_restore(environment, bucket, folder, home, tmp_path):  # noqa: F811
    restic = [program("restic"), "--quiet"]
    env = environment | home | {
        "RESTIC_REPOSITORY": f"s3:{environment['AWS_ENDPOINT_URL']}/{bucket}/backup",
        "RESTIC_PASSWORD": "only-for-this-test",
        "AWS_DEFAULT_REGION": environment["AWS_REGION"],
    }
    run(*restic, "init", environment=env)
    run(*restic, "backup", ".", environment=env, cwd=folder)
    run(*restic, "check", "--read-data", environment=env)
    run(*restic, "restore", "latest", "--target", tmp_path / "back", environment=env)
    assert tree(tmp_path / "back") == tree(folder)
    run(*restic, "backup", ".", environment=env, cwd=folder)
    run(*restic, "forget", "--keep-last", "1", "--prune", environment=env)
    run(*restic, "check", environment=env)
