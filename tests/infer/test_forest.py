import json
import random
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumzero.infer.chunks import counter
from sumzero.infer.forest import Forest, Tree, Way, mark_of
from sumzero.prompt import PromptRenderer
from sumzero.sentences import first_sentence

STORY = "\n\n".join(
    f"Part {part} begins here. It goes on for a while. It ends with number {part}."
    for part in range(24)
)


def words(texts):
    """Counts words, so that a test can say what fits."""
    return [len(text.split()) for text in texts]


def way(long="map_reduce", count=words, max_new_tokens=10, mark="#"):
    return Way(long, count, max_new_tokens, mark)


def row(node):
    """A summarizer that takes the first sentence."""
    return {"id": node.id, "text": first_sentence(node.document)}


def grow(trees, answer=row, known=(), seed=None):
    """Asks until all trees are done, in order or in a random one; the rows, and the trees by id."""
    there = dict(known)
    forest = Forest(trees, lambda node: there.get(node.id))
    shuffled = random.Random(seed)
    rows = {}
    while forest.more():
        waiting = []
        for node in forest.ready():
            waiting.append(node)
            if seed is None or shuffled.random() < 0.5:
                at = 0 if seed is None else shuffled.randrange(len(waiting))
                done = answer(waiting.pop(at))
                assert done["id"] not in rows
                rows[done["id"]] = done
                forest.take(done)
        shuffled.shuffle(waiting)
        for node in waiting:
            rows[node.id] = answer(node)
            forest.take(rows[node.id])
    return rows, {tree.id: tree for tree in forest.finished}


def levels(tree):
    return [[node["id"] for node in level] for level in tree.as_dict()["levels"]]


def test_a_document_that_fits_is_one_prompt_with_the_record_s_own_id():
    for long in ("map_reduce", "refine"):
        rows, trees = grow([Tree("a", " The cat sat. It slept.", 40, way(long))])
        assert rows == {"a": {"id": "a", "text": "The cat sat."}}
        assert trees["a"].as_dict() == {
            "long": long,
            "limit": 40,
            "levels": [
                [
                    {
                        "id": "a",
                        "span": [0, 23],
                        "tokens": 5,
                        "children": [],
                        "summary": "The cat sat.",
                    }
                ]
            ],
        }


def test_map_reduce_summarizes_chunks_then_their_summaries_until_one_prompt_holds_them():
    tree = Tree("a", STORY, 30, way())
    rows, _ = grow([tree])
    names = levels(tree)
    assert [len(level) for level in names] == [13, 2, 1]
    assert names[1:] == [["a#1.0", "a#1.1"], ["a"]]
    assert rows["a"]["text"] == "Part 0 begins here."
    found = tree.as_dict()["levels"]
    spans = [STORY[begin:end] for begin, end in (node["span"] for node in found[0])]
    assert "".join(spans) == STORY
    assert spans[1] == STORY[STORY.index("Part 2 ") : STORY.index("Part 4 ")]
    assert [child for node in found[1] for child in node["children"]] == list(range(13))
    assert found[2][0]["children"] == [0, 1]
    assert all(node["tokens"] <= 30 for level in found for node in level)
    joined = "\n\n".join(node["summary"] for node in found[1])
    assert tree.levels[2][0].document == joined


def test_refine_shows_the_summary_so_far_and_the_next_chunk():
    tree = Tree("a", STORY, 60, way("refine"))
    rows, _ = grow([tree], lambda node: {"id": node.id, "text": f"Seen up to {node.id}."})
    assert levels(tree)[0] == ["a#0.0"]
    assert levels(tree)[-1] == ["a"]
    assert levels(tree)[1] == ["a#1.0"]
    nodes = [level[0] for level in tree.levels]
    assert "".join(STORY[slice(*node.span)] for node in nodes) == STORY
    for before, node in pairwise(nodes):
        chunk = STORY[slice(*node.span)].strip()
        assert node.document == f"Seen up to {before.id}.\n\n{chunk}"
        assert node.children == (0,)
    assert rows["a"]["text"] == "Seen up to a."


@given(st.integers(0, 2**32), st.sampled_from(["map_reduce", "refine"]))
@settings(max_examples=25)
def test_rows_in_any_order_and_any_that_were_there_already_give_the_same_trees(seed, long):
    def trees():
        documents = {"a": STORY, "b": "Short.", "c": STORY[300:900], "c#": STORY[500:1400]}
        how = way(long, mark=mark_of(documents))
        return [Tree(id_, text, 40, how) for id_, text in documents.items()]

    rows, whole = grow(trees())
    again, shuffled = grow(trees(), seed=seed)
    assert again == rows
    kept = {id_: rows[id_] for id_ in rows if random.Random(f"{seed}{id_}").random() < 0.5}
    new, resumed = grow(trees(), known=kept, seed=seed)
    assert new == {id_: rows[id_] for id_ in rows if id_ not in kept}
    for found in (shuffled, resumed):
        assert {id_: tree.as_dict() for id_, tree in found.items()} == {
            id_: tree.as_dict() for id_, tree in whole.items()
        }
    assert grow(trees(), known=rows)[0] == {}


ANSWERS = {
    "empty": lambda document: "",
    "the same": lambda document: document,
    "as long": lambda document: "x " * len(document.split()),
    "longer": lambda document: document + " And more. And more.",
    "a tenth shorter": lambda document: " ".join(document.split()[len(document.split()) // 10 :]),
    "of any length": lambda document: "x " * random.Random(document).randrange(80),
    "by chance": lambda document: " ".join(random.Random(document).sample(document.split(), 2)),
}


@pytest.mark.parametrize("long", ["map_reduce", "refine"])
@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("limit", [20, 30, 100])
def test_it_ends_whatever_the_summaries_are(name, long, limit):
    tree = Tree("a", STORY, limit, way(long, max_new_tokens=5))

    def answer(node):
        assert words([node.document])[0] <= limit
        return {"id": node.id, "text": ANSWERS[name](node.document)}

    rows, trees = grow([tree], answer)
    assert tree.done
    assert list(trees) == ["a"]
    assert (tree.error is None) == ("a" in rows)
    assert len(rows) <= 10 * max(1, len(tree.levels[0]) if tree.levels else 1) + 24
    json.dumps(tree.as_dict())


@pytest.mark.parametrize(
    ("answer", "long", "limit", "reason"),
    [
        ("empty", "map_reduce", 30, "all 13 summaries of a level are empty"),
        (
            "the same",
            "map_reduce",
            30,
            "360 tokens were summarized in 360, and a prompt has room for 30: too little shorter; "
            "lower generate.max_new_tokens",
        ),
        (
            "the same",
            "refine",
            60,
            "the summary so far and the next chunk have 90 tokens, and a prompt has room for 60",
        ),
        (
            "empty",
            "refine",
            30,
            "there is room for 30 tokens of a document, and a summary may have 10: no room for a "
            "next chunk beside it; lower generate.max_new_tokens or set "
            'generate.long = "map_reduce"',
        ),
        ("empty", "map_reduce", 0, "there is room for 0 tokens of a document"),
    ],
)
def test_a_document_without_a_summary_says_why(answer, long, limit, reason):
    tree = Tree("a", STORY, limit, way(long))
    _, trees = grow([tree], lambda node: {"id": node.id, "text": ANSWERS[answer](node.document)})
    assert tree.error == reason
    assert trees == {"a": tree}


@pytest.mark.parametrize("seed", range(5))
def test_an_error_of_a_chunk_is_the_record_s_the_first_of_its_level(seed):
    def answer(node):
        if node.id in ("a#0.3", "a#0.7", "b"):
            return {"id": node.id, "error": f"killed {node.id[-1]}"}
        return row(node)

    trees = [Tree("a", STORY, 30, way()), Tree("b", "Short.", 30, way())]
    rows, _ = grow(trees, answer, seed=seed)
    assert trees[0].error == "a#0.3: killed 3"
    assert trees[1].error == "killed b"
    assert len(rows) == 13 + 1
    assert trees[0].as_dict()["levels"][0][3]["summary"] is None


def test_the_nodes_of_all_documents_wait_together_and_documents_are_opened_as_room_allows():
    opened = []

    def trees():
        for number in range(100):
            opened.append(number)
            yield Tree(f"r{number}", STORY, 30, way())

    forest = Forest(trees())
    first = list(islice(forest.ready(), 30))
    assert [node.id for node in first[11:15]] == ["r0#0.11", "r0#0.12", "r1#0.0", "r1#0.1"]
    assert opened == [0, 1, 2]
    for node in first[:13]:
        forest.take(row(node))
    rest = [node.id for node in islice(forest.ready(), 12)]
    assert rest[8:] == ["r2#0.12", "r0#1.0", "r0#1.1", "r3#0.0"]
    assert opened == [0, 1, 2, 3]


@given(st.lists(st.text("a#.0", min_size=1, max_size=6), unique=True, max_size=6))
def test_no_node_has_the_id_of_a_record_or_of_another_s_node(ids):
    mark = mark_of(ids)
    trees = [Tree(id_, STORY, 80, way(mark=mark)) for id_ in ids]
    names = [node.id for tree in trees for node in tree.begin()]
    assert len({*names, *ids}) == len(names) + len(ids)
    assert all(mark in name for name in names)
    assert not any(mark in id_ for id_ in ids)
    assert mark_of([]) == mark_of(["a"]) == "#"


@pytest.mark.parametrize("long", ["map_reduce", "refine"])
def test_stories_and_abstracts_come_to_a_summary_in_the_end(shared_data, tokenizer, long):
    stories = (shared_data / "squality_long8.jsonl").read_text(encoding="utf-8").splitlines()
    abstracts = (shared_data / "csl_zh_600.jsonl").read_text(encoding="utf-8").splitlines()
    documents = {one["id"]: one["document"] for one in map(json.loads, stories[:3])}
    documents["zh"] = "\n".join(json.loads(line)["document"] for line in abstracts[:60])
    count = counter(PromptRenderer(tokenizer))
    how = way(long, count, max_new_tokens=400)

    def answer(node):
        assert count([node.document])[0] <= 1200
        return {"id": node.id, "text": first_sentence(node.document)[:100]}

    trees = [Tree(id_, text, 1200, how) for id_, text in documents.items()]
    rows, _ = grow(trees, answer, seed=0)
    for tree in trees:
        assert tree.error is None
        assert rows[tree.id]["text"] == first_sentence(tree.levels[-1][0].document)[:100]
        leaves = tree.levels[0] if long == "map_reduce" else [level[0] for level in tree.levels]
        text = "".join(documents[tree.id][slice(*node.span)] for node in leaves)
        assert text == documents[tree.id]
        assert len(leaves) > 5
