"""Is the router worth anything? `python benchmarks/router.py [SEED ... | ship]`: the judge of the adaptive mixture.

Needs all of CIFAR-10 (`python -m lib data fetch`) and the trained networks in runs/full/mixture/NETWORK-SEED (a missing one is
named with its command). The rule stands in docs/log.md and was committed before the first run.

For every training seed the bank, its router and its rivals are judged on the same noisy images: 10,000 test images of CIFAR-10
with a level each (log-uniform, 0.05 to 0.5) and at 0.2, and photographs that scikit-image brings along at 0.2, with a smooth map
and with patches. With seeds as arguments only those are judged, into checkpoints/; without, all that are missing, and then
benchmarks/router.json is written. About three minutes of one thread for each seed. `ship` writes models/adaptive_denoiser.safetensors.
"""

import sys
import time

import full_runs
import numpy as np
import recording
import torch
from recording import ROOT
from skimage import data as photographs

from lib.common import data, intervals, params, record
from lib.mixture import adaptive, bank, denoiser, judge, levels, regions, router, training

SEEDS = (1, 2, 3, 4, 5)  # of the trainings; 98 and 99 chose the settings and are left out
SHIPPED = 1
BUDGETS = ("static_1", "static_2", "static_3")  # whose operations the mixture may spend
DECIDED = "static_2"
PHOTOGRAPHS = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "stereo_motorcycle",
    "immunohistochemistry",
    "hubble_deep_field",
)
NOISE_SEED = 77  # of the photographs' noise and maps
CIFAR = {"mixed": "a level each, 0.05 to 0.5", "fixed": "sigma 0.2"}
PHOTO = {
    "photo_fixed": "sigma 0.2",
    "photo_smooth": "a smooth map, 0.05 to 0.5",
    "photo_patches": "a quarter of the 128 px patches at 0.4, the rest at 0.1",
}
RULES = ("learned", "random", "fixed", "level", "gradient", "oracle", "static")
SIZES = [network.size for network in bank.MEMBERS.values()]
ALONE = [network.size for network in bank.STATICS.values()]
TIMED = 512  # pixels: photographs with a side of at least that many are timed


def networks(names, seed):
    """Trained networks of a seed, by name."""
    return {name: denoiser.load_weights(full_runs.weights_of(name, seed), name) for name in names}


def spending(budget, height=32, width=32):
    """Multiply-adds that the mixture may spend, its router included."""
    operations = bank.operations(bank.STATICS[budget].size, height, width)
    if budget == "static_1":  # nothing is cheaper, so the router comes on top
        operations += router.operations(len(SIZES)) * height * width / router.UNIT**2
    return operations


def router_images(settings, seed):
    """The training images that a seed's router is fitted to, uint8 (N, 3, 32, 32)."""
    images = training.training_data(settings, settings.bank)[0]
    drawn = np.random.default_rng(seed).choice(
        len(images), settings.bank.router_images, replace=False
    )
    return images[drawn]


def fitted_routers(members, images, seed):
    """The learned router and the rules that see one number only, fitted to the same measured errors."""
    clean, noisy, level = adaptive.router_images(images, seed)
    errors = adaptive.measured_errors(members, clean, noisy, level)
    found = adaptive.unit_features(noisy, level)
    with torch.enable_grad():
        return judge.routers(found, errors, seed)


def ship(settings):
    """Write the bank of SHIPPED with its router to models/: what `lib denoise --budget` uses."""
    members = list(networks(bank.MEMBERS, SHIPPED).values())
    fitted = fitted_routers(members, router_images(settings, SHIPPED), SHIPPED)
    about = {"seed": SHIPPED, "members": list(bank.MEMBERS), "profile": "full"}
    mixture = adaptive.Mixture(members, fitted["learned"])
    adaptive.save(ROOT / "models" / "adaptive_denoiser.safetensors", mixture, about)


# --- CIFAR-10: one member an image


def cifar_noisy(clean, setting, noise_seed):
    """Clean and noisy test images and their levels: (N, 3, 32, 32) twice, (N, 1, 32, 32)."""
    unit = np.random.default_rng(noise_seed).standard_normal(clean.shape, dtype=np.float32)
    level = torch.full((len(clean),), 0.2)
    if setting == "mixed":
        draws = torch.rand(len(clean), generator=torch.Generator().manual_seed(noise_seed))
        level = levels.log_uniform(draws)
    maps = levels.uniform_map(level, *clean.shape[2:])
    clean = torch.from_numpy(clean)
    return clean, (clean + maps * torch.from_numpy(unit)).clamp(0, 1), maps


def judge_cifar(members, statics, fitted, clean, setting, noise_seed):
    """PSNR of every rule at every budget, and what the routes mean. -> arrays by name"""
    clean, noisy, level = cifar_noisy(clean, setting, noise_seed)
    errors = adaptive.measured_errors(members, clean, noisy, level)
    alone = adaptive.measured_errors(statics, clean, noisy, level)
    found = adaptive.unit_features(noisy, level)
    frontier = judge.Frontier(judge.decibels(alone.double().numpy()), judge.costs_of(ALONE))
    out = {f"{setting}/frontier": frontier.psnr, f"{setting}/features": found.numpy()}
    out[f"{setting}/best"] = errors.argmin(1).numpy()
    for budget in BUDGETS:
        judged = judge.judge_images(fitted, found, errors, SIZES, frontier, spending(budget))
        for rule, values in judged.psnr.items():
            out[f"{setting}/{budget}/{rule}"] = values
        out[f"{setting}/{budget}/plan"] = judged.plan
        out[f"{setting}/{budget}/spent"] = np.array(judged.spent)
    return out


# --- photographs: one member a cell


def photograph(name):
    """A photograph (1, 3, H, W), float32 in [0, 1], cut to multiples of 64 pixels."""
    image = getattr(photographs, name)()
    if isinstance(image, tuple):  # a stereo pair: the left one
        image = image[0]
    height, width = (side - side % regions.CELL for side in image.shape[:2])
    values = image[:height, :width, :3].astype(np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


def photo_noisy(clean, setting, number):
    """A noisy photograph and its map; number: which photograph, for a noise of its own."""
    generator = torch.Generator().manual_seed(1000 * NOISE_SEED + number)
    height, width = clean.shape[2:]
    if setting == "photo_fixed":
        level = torch.full((1, 1, height, width), 0.2)
    elif setting == "photo_smooth":
        level = levels.smooth_map(height, width, generator)
    else:
        level = levels.patchy_map(height, width, generator)
    noise = torch.randn(clean.shape, generator=generator)
    return (clean + level * noise).clamp(0, 1), level


def errors_of_cells(members, clean, noisy, level):
    """Sum of squared errors of each network in each cell of a photograph. -> (R, S, K)"""
    squares = []
    for member in members:
        wrong = adaptive.outputs(member, noisy, level) - clean
        squares.append(wrong.square().sum(1)[0])
    return regions.cell_sums(torch.stack(squares).double().numpy()).transpose(1, 2, 0)


def judge_photo(members, statics, fitted, setting, number):
    """PSNR of every rule at every budget on one photograph, the operations saved, and the time saved where it is large."""
    clean = photograph(PHOTOGRAPHS[number])
    noisy, level = photo_noisy(clean, setting, number)
    height, width = clean.shape[2:]
    errors = errors_of_cells(members, clean, noisy, level)
    alone = errors_of_cells(statics, clean, noisy, level).sum((0, 1)) / clean.numel()  # (F,)
    costs = [bank.operations(size, height, width) for size in ALONE]
    frontier = judge.Frontier(judge.decibels(alone)[None], np.array(costs, dtype=float))
    predicted = {}
    for rule, chooser in fitted.items():
        predicted[rule] = adaptive.predicted_cells(adaptive.Mixture(members, chooser), noisy, level)
    out = {"frontier": frontier.psnr[0]}
    for budget in BUDGETS:
        judged = judge.judge_cells(
            predicted,
            errors,
            SIZES,
            frontier,
            height,
            width,
            spending(budget, height, width),
            number,
        )
        for rule, value in judged.psnr.items():
            out[f"{budget}/{rule}"] = value
        out[f"{budget}/spent"] = judged.spent / (height * width / 1024)
        out[f"{budget}/saved"] = judge.saved(
            judged.psnr["learned"], judged.spent, frontier.psnr[0], frontier.costs
        )
    if setting == "photo_patches" and max(height, width) >= TIMED:
        out |= time_photo(members, statics, fitted, noisy, level, frontier, out)
    return out


def time_photo(members, statics, fitted, noisy, level, frontier, found):
    """CPU milliseconds of the static networks and of the mixture, and the share saved at equal PSNR."""
    mixture = adaptive.Mixture(members, fitted["learned"])
    height, width = noisy.shape[2:]
    budget = spending(DECIDED, height, width) / bank.operations(SIZES[-1], height, width)
    alone = []
    for network in statics:
        alone.append(milliseconds(lambda one=network: adaptive.outputs(one, noisy, level)))
    routed = milliseconds(lambda: adaptive.denoise(mixture, noisy, level, budget))
    saved = judge.saved(found[f"{DECIDED}/learned"], routed, frontier.psnr[0], np.array(alone))
    return {"ms_static": np.array(alone), "ms_routed": routed, "time_saved": saved}


def milliseconds(work, rounds=3):
    """CPU milliseconds of a call, the least of some rounds after one to warm up."""
    work()
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        found.append(1000 * (time.process_time() - start))
    return min(found)


def time_cifar(members, statics, fitted, noisy, level):
    """CPU milliseconds an image, batches of 250: each network alone, the router, and the whole mixture at each budget."""
    count = len(noisy)
    out = {"ms/router": milliseconds(lambda: fitted["learned"](router.features(noisy, level)))}
    for name, network in zip([*bank.MEMBERS, *bank.STATICS], [*members, *statics], strict=True):
        out[f"ms/{name}"] = milliseconds(lambda one=network: adaptive.outputs(one, noisy, level))
    mixture = adaptive.Mixture(members, fitted["learned"])
    for budget in BUDGETS:
        share = spending(budget) / bank.operations(SIZES[-1], 32, 32)
        out[f"ms/routed/{budget}"] = milliseconds(
            lambda share=share: adaptive.denoise(mixture, noisy, level, share)
        )
    return {name: value / count for name, value in out.items()}


# --- a seed, and all of them


@torch.no_grad()
def judge_seed(seed, settings):
    """Everything that is measured for one training seed, arrays by name."""
    members = list(networks(bank.MEMBERS, seed).values())
    statics = list(networks(bank.STATICS, seed).values())
    fitted = fitted_routers(members, router_images(settings, seed), seed)
    test = data.load_cifar("test", "full")[0].astype(np.float32) / 255
    out = {}
    for setting in CIFAR:
        out |= judge_cifar(members, statics, fitted, test, setting, settings.noise_seed)
    for setting in PHOTO:
        for number, name in enumerate(PHOTOGRAPHS):
            found = judge_photo(members, statics, fitted, setting, number)
            out |= {f"{setting}/{name}/{key}": np.array(value) for key, value in found.items()}
    _, noisy, level = cifar_noisy(test[:1000], "mixed", settings.noise_seed)
    return out | time_cifar(members, statics, fitted, noisy, level)


def checkpoint(seed):
    """Where a judged seed is kept until all are there."""
    return ROOT / "checkpoints" / f"router-{seed}.npz"


def over_seeds(found, name):
    """One entry of all seeds, stacked: (S, ...)"""
    return np.stack([one[name] for one in found])


def over_photos(found, setting, name):
    """One entry of all seeds and photographs (S, P), of those photographs that have it."""
    rows = []
    for one in found:
        keys = [f"{setting}/{photo}/{name}" for photo in PHOTOGRAPHS]
        rows.append([one[key] for key in keys if key in one])
    return np.array(rows, dtype=float)


def difference(found, setting, budget, rule, other):
    """PSNR of a rule minus another's: (S, N) test images, or (S, P) photographs."""
    if setting in CIFAR:
        return over_seeds(found, f"{setting}/{budget}/{rule}") - over_seeds(
            found, f"{setting}/{budget}/{other}"
        )
    return over_photos(found, setting, f"{budget}/{rule}") - over_photos(
        found, setting, f"{budget}/{other}"
    )


def headlines(found):
    """The metrics that the ledger decides."""
    at = f"at the operations of {DECIDED}, {len(found)} training seeds"
    where = {
        "mixed": f"10,000 test images, {CIFAR['mixed']}",
        "fixed": f"10,000 test images, {CIFAR['fixed']}",
        "photo": f"7 photographs, {PHOTO['photo_patches']}",
    }
    gains = {  # name -> setting, rival, words
        "router_gain_mixed": ("mixed", "random", "learned minus random routes"),
        "router_over_static_mixed": ("mixed", "static", "mixture minus a static network"),
        "router_over_level_mixed": ("mixed", "level", "learned minus a router that sees the level"),
        "router_gain_fixed": ("fixed", "random", "learned minus random routes"),
        "router_over_static_fixed": ("fixed", "static", "mixture minus a static network"),
        "router_over_static_photo": ("photo", "static", "mixture minus a static network"),
        "router_over_level_photo": ("photo", "level", "learned minus a router that sees the level"),
    }
    out = {}
    for name, (setting, rival, words) in gains.items():
        real = "photo_patches" if setting == "photo" else setting
        interval = intervals.crossed_mean(difference(found, real, DECIDED, "learned", rival))
        what = f"{words}, {where[setting]}, {at}"
        out[f"{name}_db"] = record.metric(
            interval, unit="dB", band=0.02, what=what, headline="level" not in name
        )
        if name in ("router_gain_mixed", "router_over_static_mixed"):
            low = record.metric(
                interval.low,
                unit="dB",
                n=interval.n,
                band=0.02,
                what=f"lower end: {what}",
                headline=True,
            )
            out[f"{name}_low"] = low
    shares = {"operations": f"{DECIDED}/saved", "time": "time_saved"}
    for name, key in shares.items():
        interval = intervals.crossed_mean(over_photos(found, "photo_patches", key))
        sides = f", those of {TIMED} px and more" if name == "time" else ""
        out[f"router_photo_{name}_saved"] = record.metric(
            interval,
            band=0.1,
            what=f"share of a static network's {name} of equal PSNR that is saved, {where['photo']}{sides}, {at}",
            headline=True,
        )
    return out


def curves(found):
    """Mean PSNR of every rule at every budget in every setting, and of the static networks: what the figures show."""
    out = {}
    for setting, words in (CIFAR | PHOTO).items():
        points = []
        for budget in BUDGETS:
            point = {"budget": budget}
            for rule in (*RULES, "spent"):
                if setting in CIFAR:
                    values = over_seeds(found, f"{setting}/{budget}/{rule}")
                else:
                    values = over_photos(found, setting, f"{budget}/{rule}")
                point[rule] = float(values.mean())
            for rival in ("random", "static", "level"):
                gain = intervals.crossed_mean(difference(found, setting, budget, "learned", rival))
                point[f"over_{rival}"] = [gain.mean, gain.low, gain.high]
                by_seed = difference(found, setting, budget, "learned", rival).mean(1)
                point[f"over_{rival}_by_seed"] = by_seed.tolist()
            points.append(point)
        if setting in CIFAR:
            alone = over_seeds(found, f"{setting}/frontier").mean((0, 1))
        else:
            alone = over_photos(found, setting, "frontier").mean((0, 1))
        out[setting] = {"what": words, "static": alone.tolist(), "points": points}
    return out


def meaning(found):
    """Where each member is sent and where it is best: shares by thirds of level and edges, mixed levels. Tables by name."""
    plan = over_seeds(found, f"mixed/{DECIDED}/plan").ravel()
    best = over_seeds(found, "mixed/best").ravel()
    features = over_seeds(found, "mixed/features").reshape(-1, len(router.FEATURES))
    out = {"members": list(bank.MEMBERS)}
    out["share"] = (np.bincount(plan, minlength=len(SIZES)) / len(plan)).tolist()
    out["best"] = (np.bincount(best, minlength=len(SIZES)) / len(best)).tolist()
    columns = {"level": "level", "edges": "energy at scale 1", "texture": "excess at scale 2"}
    for name, feature in columns.items():
        values = features[:, router.FEATURES.index(feature)]
        third = np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values)
        rows = []
        for part in range(3):
            inside = plan[third == part]
            rows.append((np.bincount(inside, minlength=len(SIZES)) / len(inside)).tolist())
        out[f"share_by_{name}"] = rows  # low, middle, high third
    return out


def times(found):
    """CPU milliseconds: the least of the seeds for an image of 32 pixels, and means for photographs."""
    out = {}
    for name in found[0]:
        if name.startswith("ms/"):
            out[name.removeprefix("ms/")] = float(over_seeds(found, name).min())
    out["photo_routed"] = float(over_photos(found, "photo_patches", "ms_routed").mean())
    rows = [one[k] for one in found for k in one if k.endswith("/ms_static")]
    out["photo_static"] = np.mean(rows, axis=0).tolist()
    return out


def write(seeds):
    """benchmarks/router.json from the checkpoints of judged seeds; two at least."""
    found = [dict(np.load(checkpoint(seed))) for seed in seeds]
    costs = {name: bank.operations(n.size, 32, 32) for name, n in bank.NETWORKS.items()}
    costs["router"] = router.operations(len(SIZES))
    recording.write(
        "router",
        headlines(found),
        {"device": "cpu", "threads": 1, "seeds": list(seeds)},
        operations=costs,
        curves=curves(found),
        meaning=meaning(found),
        milliseconds=times(found),
    )


def main():
    torch.set_num_threads(1)
    settings = params.load("full")
    if sys.argv[1:] == ["ship"]:
        ship(settings)
        return 0
    for seed in [int(word) for word in sys.argv[1:]] or SEEDS:
        if checkpoint(seed).is_file():
            continue
        found = judge_seed(seed, settings)
        checkpoint(seed).parent.mkdir(exist_ok=True)
        np.savez_compressed(checkpoint(seed), **found)
        print(f"seed {seed} is judged", flush=True)
    if sys.argv[1:]:
        return 0
    write(SEEDS)
    return 0


if __name__ == "__main__":
    recording.run(main)
