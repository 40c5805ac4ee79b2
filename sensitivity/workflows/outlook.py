"""What can be said of a search before its first picture? `outlook_of`: gains of lists by hand; and
`picture_seconds`: what a picture takes here.

    outlook = outlook_of(candidates, latency, picture_seconds(prepared, request, store))
    outlook.describe(), outlook.picture

Seconds of a picture come from the scores that the store has of the same prompts on this machine,
else from `workflows.run_seconds`, as in a dry run. Where neither says anything they are not
known, and who shows the search learns them from its first pictures. Nothing is drawn or written.
"""

from statistics import median

from sensitivity.latency import LatencyModel
from sensitivity.search.candidates import Candidates, baselines
from sensitivity.search.store import Store
from sensitivity.workflows.end_timing import MOST_S
from sensitivity.workflows.prepare import Prepared
from sensitivity.workflows.progress import Outlook, PictureSeconds
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.run_seconds import seconds_of_run, slower


def outlook_of(
    candidates: Candidates, latency: LatencyModel, picture: PictureSeconds | None = None
) -> Outlook:
    """What is known of a search.

    Args:
        candidates: what is searched.
        latency: what prices it.
        picture: what a picture takes here; None is not known.
    """
    by_hand = {
        label: candidates.latency_s(choice)
        for label, choice in baselines(candidates)
        if choice != candidates.none_quantized
    }
    return Outlook(
        bf16_s=candidates.bf16_s,
        lists=by_hand,
        source=f"{latency.source} for {latency.target}",
        groups=len(candidates.groups),
        linears=sum(len(group.fqns) for group in candidates.groups),
        picture=picture,
        timing_s=MOST_S if latency.source == "measured" else 0.0,
    )


def picture_seconds(
    prepared: Prepared, request: SearchRequest, store: Store
) -> PictureSeconds | None:
    """What a picture takes here; None is not known. Raises StoreError where the store cannot be
    read.
    """
    evaluator, factor = prepared.evaluator, slower(request)
    pictures = len(evaluator.prompts("search")[0])
    known = store.find_seconds(evaluator.evaluation_key("search"))
    if known:
        quantized = median(known) / pictures
        return PictureSeconds(bf16=quantized / factor, quantized=quantized)
    if prepared.run is None:
        return None
    try:
        seconds, _source = seconds_of_run(evaluator.spec, prepared.run, request.device)
    except RuntimeError:  # torch's error where there is no memory for it beside the model
        return None
    bf16 = seconds / prepared.run.table.batch_size
    return PictureSeconds(bf16=bf16, quantized=bf16 * factor)
