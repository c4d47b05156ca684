"""Three nodes of Skerry: a site of the test harness, with what a load needs to know of it."""

BUCKET = "bench"


class Skerry:
    """Around a `harness.site.Site` that was not started."""

    name = "skerry"

    def __init__(self, site):
        self.site = site
        self.endpoints = []
        self.keys = {}

    def start(self):
        """Starts the site, waits until it is ready, makes the bucket."""
        self.site.start()
        self.endpoints = self.site.endpoints()
        variables = self.site.environment()
        wanted = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
        self.keys = {name: variables[name] for name in wanted}
        self.site.run("bucket", "mb", BUCKET)
        return self

    def stop(self):
        """Drains the site and waits for its end."""
        return self.site.stop()

    def pids(self):
        """The processes of the nodes."""
        return self.site.node_pids()

    def tail(self):
        """The end of the log."""
        return self.site.tail(20)
