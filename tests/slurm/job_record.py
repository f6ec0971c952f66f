"""What `scontrol show job` says of a job, as a dictionary."""

# They stand alone on their lines, and what they say may hold spaces and equals signs.
FREE = {"AdminComment", "Command", "Comment", "StdErr", "StdIn", "StdOut", "SystemComment"}
FREE |= {"SubmitLine", "WorkDir"}

ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
ENDED |= {"OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}


def job_records(text):
    """The fields of each job, by name; `text` is in several lines a job, without `--oneliner`."""
    return [_fields(job) for job in text.split("\n\n") if job.startswith("JobId=")]


def _fields(text):
    first, *lines = text.splitlines()
    ids, _, name = first.partition(" JobName=")
    found = dict(word.split("=", 1) for word in ids.split()) | {"JobName": name}
    for line in lines:
        name, _, value = line.strip().partition("=")
        if name in FREE:
            found[name] = value
        else:
            found |= dict(word.split("=", 1) for word in line.split() if "=" in word)
    return found
