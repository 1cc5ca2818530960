"""What only a real PostgreSQL server shows: several machines, and how it fails (issue D, 1-4).

The server does not sync its disk: no test takes the power away, and what a killed process wrote
stays with the kernel. SOAK_KILLS says how often the service is killed under load; three times
unless it is set.
"""
import json
import os
import random
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from types import SimpleNamespace
from urllib.parse import quote

import psycopg
import pytest

import postgres_server
from app import create_app
from conftest import statuses, wait_task
from inside import Commands, Unusable, close_database, open_database
from server import GUNICORN, PROJECT, Load, Server, at_once, kill, processes, wait_until
from test_durability import life_of, names, refused, timed, writes

pytestmark = pytest.mark.server

KILLS = int(os.environ.get("SOAK_KILLS", "3"))
CLIENTS = 8
ROUNDS = 5
THREADS = 2 * 16  # of a service's two workers
BROWSER = {"Accept": "text/html", "User-Agent": "Mozilla/5.0"}
APPROVAL = [wait_task("tests"), wait_task("approval", tests="always")]
FLASK = [sys.executable, "-m", "flask"]
numbers = count()


@pytest.fixture(scope="module")
def postgres():
    with postgres_server.running() as server:
        if server is None:
            pytest.skip(postgres_server.MISSING)
        yield server


@pytest.fixture(scope="module")
def template(postgres, tmp_path_factory):
    """The name of a database that knows two workflows; nobody is connected to it."""
    name = postgres.new()
    server = Server(tmp_path_factory.mktemp("template"), DATABASE_URL=postgres.url(name))
    branches = [f"branch{number}" for number in range(CLIENTS)]
    tasks = {"release": APPROVAL, "record": [], "join": [
        *map(wait_task, branches), wait_task("joined", **dict.fromkeys(branches, "success"))]}
    result = server.flask("workflow", "apply", "-", input=json.dumps(
        [{"name": name, "tasks": tasks[name]} for name in tasks]))
    assert result.returncode == 0, result.stderr
    return name


class Machine(Server):
    """A service on one machine, and the PostgreSQL database that it uses."""

    def __init__(self, folder, postgres, name, **settings):
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, **{"DATABASE_URL": postgres.url(name), **settings})
        self.postgres, self.name = postgres, name

    def __exit__(self, *error):
        self.hang_up()
        self.kill()  # to stop gently takes a second, and has a test of its own

    def sql(self, text, *values):
        """What a session of somebody else's gets for a statement."""
        with self.postgres.connect(self.name) as session:
            cursor = session.execute(text, values or None)
            return cursor.fetchall() if cursor.description else None

    def sessions(self):
        """The server's process ids of this database's sessions, but for the one that asks."""
        return {pid for pid, in self.sql(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            self.name)}

    def forget_nameless(self):
        """Delete the runs that serves() and the refused requests may have started."""
        self.sql("DELETE FROM workflow_run WHERE trigger = 'event' OR params = '{\"data\": {}}'")

    def serves(self):
        """Whether requests of every kind are answered 200, as many at once as it has threads."""
        requests = writes(self, self.run_to_change)
        answers = at_once(THREADS, lambda client: requests[client % 4]().status)
        return answers == [200] * THREADS

    @contextmanager
    def undisturbed(self):
        """Within the block no worker ends, none is restarted and nothing is a 500."""
        workers = wait_until(lambda: len(self.workers()) == 2 and self.workers(), "two workers")
        before = len(self.log)
        yield
        assert self.workers() == workers
        assert not re.search("Traceback|WORKER TIMEOUT", self.log[before:]), self.log[before:]


@contextmanager
def one_machine(postgres, template, folder):
    """One machine on a database of its own, with a run to change."""
    with Machine(folder, postgres, postgres.new(f"TEMPLATE {template}")) as machine:
        machine.run_to_change = machine.run("release", {"name": "before"})
        yield machine


@pytest.fixture
def machine(postgres, template, tmp_path):
    with one_machine(postgres, template, tmp_path / "machine") as machine:
        yield machine


@pytest.fixture(scope="module")
def lasting_machine(postgres, template, tmp_path_factory):
    with one_machine(postgres, template, tmp_path_factory.mktemp("lasting")) as machine:
        yield machine


@pytest.fixture
def used_machine(lasting_machine):
    """The same for tests that it does not matter to what others have stored."""
    yield lasting_machine
    lasting_machine.hang_up()  # select() knows a thousand open connections only


@pytest.fixture(scope="module")
def machines(postgres, template, tmp_path_factory):
    """Two machines on one database."""
    name, folder = postgres.new(f"TEMPLATE {template}"), tmp_path_factory.mktemp("machines")
    with ExitStack() as stack:
        machines = [stack.enter_context(Machine(folder / f"machine{number}", postgres, name))
                    for number in range(2)]
        for machine in machines:
            machine.run_to_change = machine.run("release")
        yield machines


@pytest.fixture
def one_of_two(machines):
    """A machine whose neighbour works on the same database; other tests use it too."""
    yield machines[0]
    machines[0].hang_up()


@pytest.fixture
def mark():
    """A text that no other request carries, by which to find what it stored."""
    return f"mark-{next(numbers)}"


def marked(machines, mark):
    return [run for run in machines[0].stored(1000) if mark in json.dumps(run["params"])]


def command(environ, *args, program=FLASK):
    """The finished command; one that does not end is killed with all its processes."""
    process = subprocess.Popen([*program, *args], cwd=PROJECT, env=environ, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    try:
        out, errors = process.communicate(timeout=15)
    finally:
        kill(*processes(process.pid))
        process.wait(5)
    return subprocess.CompletedProcess(args, process.returncode, out, errors)


# Two machines

def test_duplicate_webhooks_at_once_make_one_run(machines, mark):
    for number in range(ROUNDS):
        answers = at_once(CLIENTS, lambda client: machines[client % 2].webhook(
            "release", {"mark": mark}, Idempotency_Key=f'"{mark}-{number}"'))
        assert [answer.status for answer in answers] == [200] * CLIENTS
        assert len({json.loads(answer.text)["id"] for answer in answers}) == 1
    assert len(marked(machines, mark)) == ROUNDS


def test_duplicate_events_at_once_make_one_run(machines, mark):
    for number in range(ROUNDS):
        event = {"specversion": "1.0", "id": f"{mark}-{number}", "source": "/ci", "type": "built"}
        answers = at_once(CLIENTS, lambda client: machines[client % 2].post(
            "/api/v2/event?workflow=release", event))
        assert [answer.status for answer in answers] == [200] * CLIENTS
        assert len({json.loads(answer.text)["id"] for answer in answers}) == 1
    assert len(marked(machines, mark)) == ROUNDS


def test_racing_callbacks_end_a_task_once(machines, mark):
    ends = {}
    for number in range(ROUNDS):
        run = machines[0].run("release", {"mark": mark})
        said = ["succeeded", "succeeded", "failed", "failed"] * (CLIENTS // 4)
        answers = at_once(CLIENTS, lambda client: machines[client % 2].callback(
            run, "tests", said[client], {"client": client}).status)
        [winner] = {status for status, answer in zip(said, answers) if answer == 200}
        assert answers == [200 if status == winner else 409 for status in said]
        ends[run["id"]] = winner
    runs = marked(machines, mark)
    assert {run["id"]: run["tasks"][0]["status"] for run in runs} == ends
    assert [len(run["tasks"][0]["results"]) for run in runs] == [1] * ROUNDS


def test_racing_branches_all_advance_a_join(machines, mark):
    for number in range(ROUNDS):
        run = machines[0].run("join", {"mark": mark})
        assert at_once(CLIENTS, lambda client: machines[client % 2].callback(
            run, f"branch{client}").status) == [200] * CLIENTS
    for run in marked(machines, mark):
        assert statuses(run).pop("joined") == "waiting"
        assert set(statuses(run).values()) == {"succeeded", "waiting"}


@contextmanager
def at_the_gate(machine, paths):
    """`flask workflow apply` of each path, a FIFO, has been started and waits for its input."""
    for path in paths:
        os.mkfifo(path)
    running = [subprocess.Popen([*FLASK, "workflow", "apply", path], cwd=PROJECT,
                                env=machine.environ, stdout=subprocess.PIPE, text=True,
                                stderr=subprocess.PIPE) for path in paths]

    def opened(path):
        try:
            return open(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "w")
        except OSError:  # nobody reads yet
            return None

    gates = [wait_until(lambda: opened(path), "the command reads", 20) for path in paths]
    try:
        yield running, gates
    finally:
        for process in running:
            process.kill()
            process.communicate(timeout=5)


def test_applying_the_same_new_name_at_once_succeeds_everywhere(machines, tmp_path, mark):
    definition = json.dumps({"name": mark, "tasks": [wait_task("tests")]})
    paths = [tmp_path / str(number) for number in range(4)]
    with at_the_gate(machines[0], paths) as (running, gates):
        for gate in gates:
            gate.write(definition)
            gate.close()
        said = [process.communicate(timeout=20) for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    assert sorted(out.split()[0] for out, errors in said) == ["created", *["unchanged"] * 3]
    assert machines[0].sql("SELECT version FROM workflow WHERE name = %s", mark) == [(1,)]


def test_an_empty_database_gets_its_tables_once_from_several_at_once(postgres, tmp_path):
    machine = Machine(tmp_path, postgres, postgres.new())
    done = at_once(4, lambda client: command(machine.environ, "workflow", "list"))
    assert [result.returncode for result in done] == [0] * 4, done
    assert len(machine.sql("SELECT * FROM signalbox_schema")) == 1


@pytest.mark.parametrize("tasks", [[], [wait_task("tests")]], ids=["ended", "under way"])
def test_a_deletion_among_racing_starts_leaves_no_stray_run(machines, mark, tasks):
    machines[0].define(mark, *tasks)

    def start(name):
        answer = machines[int(name.partition("-")[0]) % 2].webhook(mark, {"mark": mark})
        # 503: on a busy machine the deletion may hold the workflow longer than a start waits.
        assert answer.status in (200, 404, 503), answer.text
        return answer.status, json.loads(answer.text).get("id")

    with Load(start, clients=4) as load:
        load.more(20)
        result = machines[1].flask("workflow", "delete", mark, "--force")
        after = at_once(4, lambda client: start(f"{client}-after")[0])
        load.more(20)
    assert (result.returncode, after) == (0, [404] * 4), result
    assert load.errors == []
    stored = machines[0].sql(
        "SELECT id, status FROM workflow_run WHERE workflow_ref = %s", mark)
    assert {id for id, status in stored} == {id for status, id in load.done if status == 200}
    assert {status for id, status in stored} == {"cancelled" if tasks else "succeeded"}
    if tasks:
        assert f"cancelled {len(stored)} runs" in result.stdout


def test_a_deletion_leaves_a_run_as_it_ended_meanwhile(machines, mark):
    machines[0].define(mark, wait_task("tests"))
    machines[0].run(mark)
    with machines[0].postgres.connect(machines[0].name) as other, ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute(
                "UPDATE task_run SET status = 'succeeded', end_time = 9e12 FROM workflow_run "
                "WHERE number = workflow_run_id AND workflow_ref = %s", [mark])
            other.execute("UPDATE workflow_run SET status = 'succeeded', end_time = 9e12 "
                          "WHERE workflow_ref = %s", [mark])
            result = pool.submit(machines[0].flask, "workflow", "delete", mark, "--force")
            wait_until(lambda: machines[0].sql("SELECT * FROM pg_stat_activity WHERE "
                                               "wait_event_type = 'Lock'"), "the deletion waits")
        assert result.result().returncode == 0, result.result()
    assert machines[0].sql("SELECT status FROM workflow_run WHERE workflow_ref = %s",
                           mark) == [("succeeded",)]


def test_expire_by_several_processes_at_once_ends_each_task_once(machines, mark):
    machines[0].define(mark, wait_task("tests", timeout=1), wait_task("retry", tests="failure"))
    ids = {machines[number % 2].run(mark)["id"] for number in range(60)}
    machines[0].sql("UPDATE task_run SET start_time = start_time - 60000 WHERE timeout = 1")
    machines[0].sql("UPDATE workflow_run SET due = due - 60000 WHERE workflow_ref = %s", mark)
    done = at_once(3, lambda client: command(machines[0].environ, "workflowrun", "expire"))
    assert [result.returncode for result in done] == [0] * 3, done
    told = re.findall("task timedout .*run=(\\w+)", "".join(result.stderr for result in done))
    assert sorted(told) == sorted(ids)
    runs = [run for run in machines[0].stored(1000) if run["id"] in ids]
    assert [statuses(run) for run in runs] == [{"tests": "timedout", "retry": "waiting"}] * 60


def test_purges_at_once_delete_each_run_once(machines, mark):
    machines[0].define(mark)
    for number in range(40):
        machines[number % 2].run(mark)
    machines[0].sql("UPDATE workflow_run SET end_time = 1 WHERE workflow_ref = %s", mark)
    done = at_once(3, lambda client: command(
        machines[0].environ, "workflowrun", "purge", "--older-than", "365d"))
    assert [result.returncode for result in done] == [0] * 3, done
    assert sum(int(re.search(r"\d+", result.stdout)[0]) for result in done) == 40


# Killed anywhere

def check_nothing_is_lost_or_doubled(machine, done):
    """Every acknowledged run is stored once, wholly, as it was acknowledged; and no other one."""
    stored = {run["id"]: run for run in machine.stored()}
    stored.pop(getattr(machine, "run_to_change", {}).get("id"), None)
    assert sorted(names(stored.values())) == sorted(name for name, id, ends in done)
    for name, id, ends in done:
        run = stored[id]
        assert (run["params"][0]["value"]["name"], statuses(run)) == (name, ends)
        assert run["status"] == ("failed" if "failed" in ends.values() else "running")
        for task in run["tasks"]:
            assert len(task["results"]) == (task["status"] != "waiting")
    assert machine.sql("SELECT count(*) FROM task_run WHERE workflow_run_id NOT IN "
                       "(SELECT number FROM workflow_run)") == [(0,)]


def test_kills_at_any_moment_lose_and_double_nothing(postgres, template, tmp_path):
    name = postgres.new(f"TEMPLATE {template}")
    with ExitStack() as stack:
        machines = [stack.enter_context(Machine(tmp_path / str(number), postgres, name))
                    for number in range(2)]
        steps = [life_of(machine) for machine in machines]
        with Load(lambda name: steps[int(name.partition("-")[0]) % 2](name)) as load:
            for number in range(KILLS):
                load.more(random.randint(5, 30))
                load.stopping.wait(random.uniform(0, 0.02))
                victim = machines[number // 2 % 2]
                if number % 2 == 0:
                    kill(random.choice(wait_until(victim.workers, "there is a worker")))
                else:
                    victim.kill()
                    victim.start()
            load.more(20)
        assert load.errors == []
        check_nothing_is_lost_or_doubled(machines[0], load.done)


# The server goes away, and comes back

class Polite:
    """Sends to a machine as a careful sender does; everything but 200 must be a 503 in time."""

    def __init__(self, machine):
        self.machine, self.refusals = machine, 0

    def insist(self, send):
        def ask():
            answer, seconds = timed(send)
            assert seconds < 10
            assert answer.status == 200 or refused(answer), (answer.status, answer.text)
            self.refusals += answer.status == 503
            return answer if answer.status == 200 else None
        return wait_until(ask, "it is answered 200", 20)

    def webhook(self, *args, **headers):
        return self.insist(lambda: self.machine.webhook(*args, **headers))

    def callback(self, *args):
        return self.insist(lambda: self.machine.callback(*args))


def check_everything_is_refused(machine, clients=40):
    """Forty clients at once are told within ten seconds, each of them, to come again."""
    requests = writes(machine, machine.run_to_change)
    answers = at_once(clients, lambda client: timed(requests[client % 4]))
    assert [answer.status for answer, seconds in answers if not refused(answer)] == []
    assert max(seconds for answer, seconds in answers) < 10


def test_a_server_that_crashes_under_load_is_503_until_it_is_back(postgres, machine):
    polite = Polite(machine)
    with machine.undisturbed(), Load(life_of(polite)) as load:
        load.more(30)
        with postgres.away("immediate"):
            check_everything_is_refused(machine)
            wait_until(lambda: polite.refusals, "the load is refused")
        load.more(30)
        with postgres.away("immediate"):
            pass
        load.more(30)
    assert load.errors == []
    assert machine.serves()
    machine.forget_nameless()
    check_nothing_is_lost_or_doubled(machine, load.done)


def test_a_machine_started_while_the_server_is_away_works_once_it_is_there(
        postgres, template, tmp_path):
    name = postgres.new(f"TEMPLATE {template}")
    with postgres.away(), Machine(tmp_path, postgres, name) as machine:
        machine.run_to_change = {"id": "0" * 32}
        with machine.undisturbed():
            check_everything_is_refused(machine)
            postgres.start()
            machine.run_to_change = machine.run("release")
            assert machine.serves()


def test_a_machine_started_while_the_server_hangs_is_503_in_time(postgres, template, tmp_path):
    name = postgres.new(f"TEMPLATE {template}")
    with postgres.hanging(), Machine(tmp_path, postgres, name) as machine:
        machine.run_to_change = {"id": "0" * 32}
        with machine.undisturbed():
            check_everything_is_refused(machine)


def test_a_start_on_a_server_that_takes_no_writes_is_503(postgres):
    """As a standby's, while the tables are missing or those of an older version."""
    name = postgres.new()
    with postgres.connect() as session:
        session.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    client = create_app({"DATABASE_URL": postgres.url(name)}).test_client()
    assert client.post("/api/v2/webhook?workflow=release", json={}).status_code == 503
    close_database()


def test_commands_say_in_a_line_that_the_server_is_away(postgres, tmp_path):
    machine = Machine(tmp_path, postgres, postgres.new())
    with postgres.away():
        result = command(machine.environ, "workflow", "list")
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr


@contextmanager
def every_session_taken(postgres):
    """Other programs hold all sessions that the server allows."""
    with ExitStack() as stack:
        for number in range(200):
            try:
                stack.enter_context(postgres.connect())
            except psycopg.OperationalError:
                break
        yield


def test_a_server_without_free_sessions_is_503_until_there_are(postgres, template, tmp_path):
    name = postgres.new(f"TEMPLATE {template}")
    with postgres.started_with("-c", f"max_connections={THREADS + 8}"), ExitStack() as stack:
        with every_session_taken(postgres):
            machine = stack.enter_context(Machine(tmp_path, postgres, name))
            machine.run_to_change = {"id": "0" * 32}
            stack.enter_context(machine.undisturbed())
            check_everything_is_refused(machine)
        machine.run_to_change = machine.run("release")
        wait_until(machine.serves, "every session is there", 5)


def test_fewer_sessions_than_threads_are_no_500(postgres, template, tmp_path):
    name = postgres.new(f"TEMPLATE {template}")
    with postgres.started_with("-c", "max_connections=8"), Machine(
            tmp_path, postgres, name) as machine, machine.undisturbed():
        answers = sum(at_once(THREADS, lambda client: [
            machine.webhook("release", {}) for number in range(5)]), [])
        assert all(answer.status == 200 or refused(answer) for answer in answers)
        assert {200, 503} == {answer.status for answer in answers}


# Somebody else's locks and interventions

@pytest.mark.parametrize("lock", [
    "SELECT 1 FROM workflow_run FOR UPDATE", "LOCK TABLE workflow_run",
], ids=["a run's row", "a table"])
def test_forty_clients_get_503_in_time_while_another_session_holds(one_of_two, lock):
    requests = writes(one_of_two, one_of_two.run_to_change)
    if "UPDATE" in lock:
        requests = requests[1:3] * 2  # the callbacks; other runs may start
    with one_of_two.undisturbed(), one_of_two.postgres.connect(one_of_two.name) as holder:
        with holder.transaction():
            holder.execute(lock)
            answers = at_once(40, lambda client: timed(requests[client % 4]))
        assert [answer.status for answer, seconds in answers if not refused(answer)] == []
        assert max(seconds for answer, seconds in answers) < 10
        wait_until(one_of_two.serves, "the service goes on", 5)


def test_other_runs_go_on_while_another_session_holds_a_run(one_of_two):
    with one_of_two.postgres.connect(one_of_two.name) as holder, holder.transaction():
        holder.execute("SELECT 1 FROM workflow_run FOR UPDATE")
        run = one_of_two.run("release")
        answers = at_once(CLIENTS, lambda client: timed(
            lambda: one_of_two.callback(run, "tests")))
    assert [answer.status for answer, seconds in answers] == [200] * CLIENTS
    assert max(seconds for answer, seconds in answers) < 2


def terminate(machine):
    before = machine.sessions()
    machine.sql("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", list(before))
    wait_until(lambda: not before & machine.sessions(), "the sessions have ended")


def test_idle_sessions_that_the_server_ended_are_replaced_unnoticed(one_of_two):
    assert one_of_two.serves()
    page = f"/api/v2/callback?workflowrun={one_of_two.run_to_change['id']}&topic=tests"
    repeated = {"Idempotency_Key": '"again"'}
    first = one_of_two.run("release", **repeated)
    for send in [one_of_two.serves,
                 lambda: at_once(THREADS, lambda client: one_of_two.get(
                     page, **BROWSER).status) == [200] * THREADS,
                 lambda: at_once(THREADS, lambda client: one_of_two.run(
                     "release", **repeated)["id"]) == [first["id"]] * THREADS]:
        with one_of_two.undisturbed():
            before, logged = one_of_two.sessions(), len(one_of_two.log)
            assert before
            terminate(one_of_two)
            assert send()
            assert not before & one_of_two.sessions()
            assert "database unavailable" not in one_of_two.log[logged:]


def test_sessions_ended_in_the_middle_are_503_and_nothing_is_doubled(machine):
    with machine.undisturbed(), Load(life_of(Polite(machine))) as load:
        for number in range(4):
            load.more(10)
            terminate(machine)
        load.more(10)
    assert load.errors == []
    check_nothing_is_lost_or_doubled(machine, load.done)


def test_a_transaction_that_the_server_gave_up_on_is_503(postgres, template, tmp_path):
    """As after a machine was suspended: the server ends a session that is idle in a transaction."""
    name = postgres.new(f"TEMPLATE {template}")
    url = postgres.url(name) + "&options=" + quote("-c idle_in_transaction_session_timeout=50")
    with Machine(tmp_path, postgres, name, DATABASE_URL=url) as machine, machine.undisturbed():
        def send(number):
            for pid in machine.workers():
                os.kill(pid, number)

        def in_transaction():
            """Sessions that are idle in a transaction; one within a pipeline is not idle."""
            return machine.sql("SELECT pid FROM pg_stat_activity WHERE datname = %s AND query NOT "
                               "LIKE 'INSERT INTO \"task_run%%' AND state LIKE 'idle in %%'", name)

        def caught():
            send(signal.SIGSTOP)
            if not (found := in_transaction()):
                send(signal.SIGCONT)
            return found

        with Load(life_of(Polite(machine))) as load:
            try:
                for number in range(3):
                    load.more(20)
                    wait_until(caught, "a worker is stopped within a transaction")
                    wait_until(lambda: not in_transaction(), "the server gives up")
                    send(signal.SIGCONT)
            finally:
                send(signal.SIGCONT)
            load.more(20)
        assert load.errors == []
    check_nothing_is_lost_or_doubled(Machine(tmp_path, postgres, name), load.done)


INTERVENTIONS = {
    "serializable": ("ALTER DATABASE {name} SET default_transaction_isolation = serializable",
                     "ALTER DATABASE {name} RESET default_transaction_isolation"),
    "read-only": ("ALTER DATABASE {name} SET default_transaction_read_only = on",
                  "ALTER DATABASE {name} RESET default_transaction_read_only"),
    **{f"{table} restored": (f"ALTER TABLE {table} RENAME TO away",
                             f"ALTER TABLE away RENAME TO {table}")
       for table in ("workflow", "workflow_run", "task_run")},
}


@pytest.mark.parametrize("what", INTERVENTIONS)
def test_what_an_administrator_does_to_the_database_is_no_500(used_machine, what):
    do, undo = INTERVENTIONS[what]
    requests = writes(used_machine, used_machine.run_to_change)
    with used_machine.undisturbed():
        used_machine.sql(do.format(name=used_machine.name))
        try:
            terminate(used_machine)
            answers = at_once(THREADS, lambda client: requests[client % 4]())
        finally:
            with used_machine.postgres.connect(used_machine.name) as session, session.transaction():
                session.execute("SET TRANSACTION READ WRITE")
                session.execute(undo.format(name=used_machine.name))
            terminate(used_machine)
        assert [(answer.status, answer.text) for answer in answers
                if answer.status != 200 and not refused(answer)] == []
        assert any(map(refused, answers)) or what == "serializable"
        wait_until(used_machine.serves, "the service goes on", 5)


# Sessions

def test_each_thread_has_one_session_at_most_and_keeps_it(used_machine):
    seen = set()
    for number in range(5):
        assert at_once(40, lambda client: used_machine.webhook("release", {}).status) == [200] * 40
        now = used_machine.sessions()
        assert seen <= now and 2 <= len(now) <= THREADS
        seen = now


@pytest.mark.parametrize("end", [Server.stop, Server.kill], ids=["stopped", "killed"])
def test_no_session_is_left_after_the_service_ended(machine, end):
    at_once(THREADS, lambda client: machine.run("release"))
    assert machine.sessions()
    end(machine)
    wait_until(lambda: not machine.sessions(), "every session has ended")


def test_a_reload_leaves_no_session_behind(used_machine):
    at_once(THREADS, lambda client: used_machine.run("release"))
    before = used_machine.sessions()
    used_machine.signal(signal.SIGHUP)
    wait_until(lambda: not before & used_machine.sessions(), "the old sessions have ended")
    wait_until(used_machine.serves, "the new workers answer")
    assert len(used_machine.sessions()) <= THREADS


# Databases that are not ours, and ways that lead nowhere

SERVICE, LIST = pytest.param(GUNICORN, id="service"), pytest.param(
    [*FLASK, "workflow", "list"], id="command")


def check_it_is_refused_in_a_line(environ, program):
    """It ends with exit code 1 and says why in one line, which is returned."""
    result = command(environ, program=program)
    assert result.returncode == 1, result
    lines = (result.stdout + result.stderr).splitlines()
    assert len(lines) == 1, lines
    assert "s3cret" not in lines[0]
    return lines[0]


@pytest.mark.parametrize("program", [SERVICE, LIST])
def test_a_newer_schema_is_refused(postgres, template, tmp_path, program):
    machine = Machine(tmp_path, postgres, postgres.new(f"TEMPLATE {template}"))
    machine.sql("UPDATE signalbox_schema SET version = 999")
    line = check_it_is_refused_in_a_line(machine.environ, program)
    assert "999" in line and "newer" in line
    assert machine.sql("SELECT version FROM signalbox_schema") == [(999,)]


#: What makes of a database of version n + 1 one of version n.
BACK = [["DROP INDEX workflow_run_workflow_ref_status_number"],
        ["ALTER TABLE workflow_run DROP COLUMN correlate",
         "ALTER TABLE task_run DROP COLUMN message, DROP COLUMN resolvers"],
        ["DROP TABLE notice", "ALTER TABLE workflow_run DROP COLUMN notify"]]


def layout(machine):
    """The schema's version, its columns, indexes and constraints."""
    return [machine.sql(text) for text in (
        "SELECT version FROM signalbox_schema",
        "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable"
        " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2")]


@pytest.mark.parametrize("version", range(1, len(BACK) + 1))
def test_an_older_schema_is_brought_up_to_date(postgres, template, tmp_path, version):
    machine = Machine(tmp_path, postgres, postgres.new(f"TEMPLATE {template}"))
    present = layout(machine)
    for statements in reversed(BACK[version - 1:]):
        for statement in statements:
            machine.sql(statement)
    machine.sql(f"UPDATE signalbox_schema SET version = {version}")
    assert layout(machine) != present
    assert machine.flask("workflow", "list").returncode == 0
    assert layout(machine) == present


def check_no_service_is_made(url, *words):
    """No application is made on the database, in whose refusal these words stand."""
    with pytest.raises(Unusable) as refused:
        create_app({"DATABASE_URL": url})
    close_database()
    said = str(refused.value)
    assert [word for word in words if word not in said] == [] and "s3cret" not in said, said


@pytest.mark.parametrize("table", ["workflow_run", "workflow", "task_run"])
def test_a_table_of_another_application_is_refused(postgres, tmp_path, table):
    machine = Machine(tmp_path, postgres, postgres.new())
    machine.sql(f"CREATE TABLE {table} (precious integer)")
    check_no_service_is_made(machine.environ["DATABASE_URL"], table)
    assert machine.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [(table,)]


@pytest.mark.parametrize("program", [SERVICE, LIST])
def test_a_user_who_may_not_create_tables_is_refused(postgres, tmp_path, program):
    machine = Machine(tmp_path, postgres, postgres.new())
    machine.sql("DROP ROLE IF EXISTS reader")
    machine.sql("CREATE ROLE reader LOGIN")
    machine.environ["DATABASE_URL"] = postgres.url(machine.name, "reader")
    assert "permission" in check_it_is_refused_in_a_line(machine.environ, program)


def test_a_user_needs_no_right_to_create_once_the_tables_are_there(postgres, template, tmp_path):
    owner = Machine(tmp_path, postgres, postgres.new(f"TEMPLATE {template}"))
    owner.sql("CREATE ROLE clerk LOGIN")
    owner.sql("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk")
    owner.sql("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO clerk")
    with Machine(tmp_path / "clerk", postgres, owner.name,
                 DATABASE_URL=postgres.url(owner.name, "clerk")) as machine:
        machine.run_to_change = machine.run("release")
        with machine.undisturbed():
            assert machine.serves()
            owner.sql("REVOKE INSERT ON task_run FROM clerk")
            answer = machine.webhook("release", {})
            assert refused(answer), (answer.status, answer.text)
            owner.sql("GRANT INSERT ON task_run TO clerk")
            assert machine.serves()


def test_options_of_the_url_are_added_to_the_limits(postgres):
    url = postgres.url() + "&options=" + quote("-c statement_timeout=3s -c work_mem=8MB")
    session = open_database(url, [], [])
    names = ["lock_timeout", "statement_timeout", "work_mem", "idle_in_transaction_session_timeout"]
    try:
        assert [session.execute_sql(f"SHOW {name}").fetchone()[0] for name in names] == [
            "2s", "3s", "8MB", "5s"]
    finally:
        session.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_text_is_refused(postgres, encoding):
    name = postgres.new(f"ENCODING {encoding} TEMPLATE template0 LOCALE 'C'")
    check_no_service_is_made(postgres.url(name), "UTF8")


@pytest.mark.parametrize("program", [SERVICE, LIST])
def test_a_missing_driver_is_named(postgres, tmp_path, program):
    (tmp_path / "psycopg.py").write_text("raise ImportError('no psycopg here')")
    machine = Machine(tmp_path, postgres, "postgres", PYTHONPATH=str(tmp_path))
    assert "requirements-postgres.txt" in check_it_is_refused_in_a_line(machine.environ, program)


def test_sqlite_needs_no_driver(tmp_path):
    (tmp_path / "psycopg.py").write_text("raise ImportError('no psycopg here')")
    server = Server(tmp_path, PYTHONPATH=str(tmp_path))
    assert command(server.environ, "workflow", "list").returncode == 0


UNUSABLE = {
    "port": "postgresql://user:s3cret@127.0.0.1:port/name",
    "slash in the password": "postgresql://user:s3cret/x@127.0.0.1/name",
    "hash in the password": "postgresql://user:s3cret#x@127.0.0.1/name",
    "scheme": "postgres://user:s3cret@127.0.0.1/name",
    "option": "postgresql://user:s3cret@127.0.0.1/name?nonsense=1",
    **{f"option {name}": f"postgresql://user:s3cret@127.0.0.1/name?{name}=1" for name in (
        "row_factory", "cursor_factory", "prepare_threshold", "context", "isolation_level")},
    "host": "postgresql://user:s3cret@[::1/name",
    "value of an option": "postgresql://user:s3cret@127.0.0.1/name?connect_timeout=soon",
}


@pytest.mark.parametrize("url", UNUSABLE.values(), ids=UNUSABLE)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url):
    check_no_service_is_made(url, "DATABASE_URL")


def test_a_url_that_cannot_be_used_ends_the_start_with_a_line(tmp_path):
    server = Server(tmp_path, DATABASE_URL=UNUSABLE["option"])
    assert "DATABASE_URL" in check_it_is_refused_in_a_line(server.environ, GUNICORN)


@pytest.fixture(scope="module")
def with_password(postgres):
    """The user `locked` needs a password, which is s3cret@pw."""
    with postgres.connect() as session:
        session.execute("CREATE ROLE locked LOGIN PASSWORD 's3cret@pw' SUPERUSER")
        [[file]] = session.execute("SHOW hba_file").fetchall()
        with open(file) as old:
            rules = old.read()
        with open(file, "w") as new:
            new.write(f"local all locked scram-sha-256\n{rules}")
        session.execute("SELECT pg_reload_conf()")


ASTRAY = {
    "password": "postgresql://locked:s3cret%40wrong@/{name}?host={folder}",
    "host": "postgresql://locked:s3cret%40pw@/{name}?host={folder}/nowhere",
    "port": "postgresql://locked:s3cret%40pw@127.0.0.1:9/{name}",
    "name of the host": "postgresql://locked:s3cret%40pw@nowhere.invalid/{name}",
    "user": "postgresql://nobody-here:s3cret%40pw@/{name}?host={folder}",
    "database": "postgresql://locked:s3cret%40pw@/nowhere?host={folder}",
}


def check_it_stays_secret(postgres, answers, logged):
    assert all(map(refused, answers)), answers
    for text in [*logged, *(answer.text for answer in answers)]:
        assert "s3cret" not in text and "Traceback" not in text
        is_page = text.startswith("<!doctype")
        assert is_page or not re.search(r"^\s", text, re.MULTILINE), "one line each"
    for answer in answers:
        assert postgres.folder not in answer.text and "locked" not in answer.text


@pytest.mark.parametrize("what", ASTRAY)
def test_a_url_that_leads_nowhere_is_503_and_its_password_stays_secret(
        postgres, template, with_password, caplog, what):
    url = ASTRAY[what].format(name=template, folder=postgres.folder)
    app = create_app({"DATABASE_URL": url})
    client = app.test_client()
    answers = [client.post("/api/v2/webhook?workflow=release", json={}), client.get("/nowhere"),
               client.get("/api/v2/callback", headers={"Accept": "text/html"})]
    said = Commands(app)("workflow", "list")
    close_database()
    assert (said.exit_code, len(said.stderr.splitlines())) == (1, 1), said.stderr
    check_it_stays_secret(postgres, [
        SimpleNamespace(status=answer.status_code, headers=answer.headers, text=answer.text)
        for answer in answers], [*caplog.messages, said.output])


def test_no_log_of_a_service_has_the_password_of_a_url_that_leads_nowhere(
        postgres, template, tmp_path, with_password):
    url = ASTRAY["password"].format(name=template, folder=postgres.folder)
    with Server(tmp_path, DATABASE_URL=url) as server:
        answers = [server.webhook("release", {}), server.get("/nowhere"),
                   server.get("/api/v2/callback", Accept="text/html")]
    said = command(server.environ, "workflow", "list")
    assert (said.returncode, len(said.stderr.splitlines())) == (1, 1), said.stderr
    check_it_stays_secret(postgres, answers, [server.log, said.stderr, said.stdout])


def test_a_password_opens_the_database(postgres, tmp_path, with_password):
    url = f"postgresql://locked:s3cret%40pw@/{postgres.new()}?host={postgres.folder}"
    with Server(tmp_path, DATABASE_URL=url) as server:
        server.define("release", *APPROVAL)
        server.run("release")
    assert "s3cret" not in server.log


# Hostile text

HOSTILE = {"NUL": "a\0b", "a lone surrogate": "\udc80", "an emoji": "\U0001f600", "a quote": "';--",
           "a placeholder": "%s %(x)s %", "a backslash": "\\x00\\'", "long": "x" * 5000,
           "a control character": "\x01\x7f", "right to left": "\u202e"}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_anywhere_is_no_500(machines, text):
    machine, run = machines[0], machines[1].run("release")
    in_url = quote(text, errors="surrogateescape")
    in_json = json.loads(json.dumps(text))
    event = {"specversion": "1.0", "id": "1", "source": "/ci", "type": "built"}
    in_header = re.sub(r"[^ -~]", "?", text)
    answers = [
        machine.webhook(in_url, {}), machine.webhook("release", {"data": in_json, in_json: 1}),
        machine.webhook("release", {}, Idempotency_Key=in_header),
        machine.webhook("release", {}, webhook_id=in_header),
        *(machine.post("/api/v2/event?workflow=release", {**event, name: in_json})
          for name in ("id", "source", "type", "subject", "data", "extension", "dataschema")),
        machine.post("/api/v2/event", {**event, "subject": in_json}),
        machine.post("/api/v2/webhook", {"data": in_json}),
        machine.request("POST", "/api/v2/event", {}, {
            "ce-specversion": "1.0", "ce-id": in_url[:2000], "ce-source": "/ci", "ce-type": "t",
            "ce-subject": in_url[:2000]}),
        *(machine.request(method, f"/api/v2/callback?{query}", payload,
                          {**BROWSER, "Accept": accept})
          for query in (f"workflowrun={in_url}&topic=tests",
                        f"workflowrun={run['id']}&topic={in_url}",
                        f"workflowrun={run['id']}&topic=tests&status={in_url}",
                        f"workflowrun={run['id']}&topic=tests&access_token={in_url}")
          for method, payload in (("POST", {"data": in_json}), ("GET", None))
          for accept in ("*/*", "text/html")),
        form(machine, run, f"status=succeeded&comment={in_url}"),
    ]
    assert [answer.status for answer in answers if not 200 <= answer.status < 500] == []
    assert "Traceback" not in machine.log


def form(machine, run, body):
    status, text = machine.raw("\r\n".join([
        f"POST /api/v2/callback?workflowrun={run['id']}&topic=approval HTTP/1.1", "Host: test",
        "Content-Type: application/x-www-form-urlencoded", "Sec-Fetch-Site: same-origin",
        f"Content-Length: {len(body)}", "Connection: close", "", body]).encode())
    return type("Answer", (), {"status": status, "text": text})


@pytest.mark.both
@pytest.mark.parametrize("place", ["displayName", "name", "task", "topic", "param", "value"])
@pytest.mark.parametrize("text", [HOSTILE["NUL"], HOSTILE["an emoji"] * 100, "€" * 255],
                         ids=["NUL", "emoji", "255 signs"])
def test_hostile_text_in_a_definition_is_taken_or_refused(
        flask, start, callback, show, tmp_path, place, text):
    task = wait_task(text if place == "task" else "tests", text if place == "topic" else "tests")
    definition = {
        "name": text if place == "name" else "release", "tasks": [task],
        "displayName": text if place == "displayName" else "shown",
        "params": [{"name": text if place == "param" else "given",
                    "defaultValue": text if place == "value" else 1}]}
    (tmp_path / "definition.json").write_text(json.dumps(definition))
    result = flask("workflow", "apply", tmp_path / "definition.json")
    assert isinstance(result.exception, SystemExit) == bool(result.exit_code), result.exception
    if result.exit_code == 0:
        run = start(definition["name"])
        assert callback(run, task["params"][0]["value"]).status_code == 200
        assert show(run)["status"] == "succeeded"
