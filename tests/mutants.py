"""The mutations of the mixture: each breaks lib/mixture in one place. `tests/mutations.py` runs the tests under them.

A mutation names its place by a text, which must stand exactly once in the module as `ast.unparse` writes it: one
statement a line, single quotes, no comments, no parentheses but those that are needed. So it does not matter how the
source is laid out, and a reformatted module is still broken in the same places.
"""

import ast
from typing import NamedTuple

ANNOUNCED = ("announced",)
LAYERS = ("layers",)
BOTH = ("announced", "layers")
RANKS = ("ranks",)
BANK = ("bank",)


class Mutation(NamedTuple):
    """`old` becomes `new` in one module; `tests` names the files tests/mixture/test_*.py that may notice.

    The module is one of lib/mixture, or named with its folder in lib ("common/weights").
    """

    name: str
    module: str
    old: str
    new: str
    tests: tuple[str, ...] = LAYERS

    @property
    def path(self) -> str:
        """Of the module, seen from the root of the project."""
        return f"lib/{self.module}.py" if "/" in self.module else f"lib/mixture/{self.module}.py"


def normalised(source: str) -> str:
    """The same program in the layout of `ast.unparse`, whatever its own was."""
    return ast.unparse(ast.parse(source)) + "\n"


def mutated(source: str, mutation: Mutation) -> str:
    """The normalised source with the mutation.

    Raises:
        ValueError: the place is not there, or not only once, or nothing changes.
        SyntaxError: what comes out is no program, so that any test would "notice" it.
    """
    before = normalised(source)
    count = before.count(mutation.old)
    if count != 1:
        raise ValueError(
            f"mutation {mutation.name!r}: {mutation.old!r} stands {count} times in "
            f"{mutation.path} as ast.unparse writes it; name its place anew in tests/mutants.py"
        )
    after = before.replace(mutation.old, mutation.new)
    if ast.dump(ast.parse(after)) == ast.dump(ast.parse(before)):
        raise ValueError(f"mutation {mutation.name!r} changes nothing")
    return after


MUTATIONS = [
    # the announced network
    Mutation(
        "patch embedding without bias",
        "announced",
        "patch, stride=patch)\n        self.positions",
        "patch, stride=patch, bias=False)\n        self.positions",
        ANNOUNCED,
    ),
    Mutation(
        "one position too many",
        "announced",
        "self.tokens ** 2, width))",
        "self.tokens ** 2 + 1, width))",
        ANNOUNCED,
    ),
    Mutation(
        "norms without shift",
        "announced",
        "nn.LayerNorm(width), nn.LayerNorm(width)",
        "nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)",
        ANNOUNCED,
    ),
    Mutation(
        "hidden layer one short", "announced", "hidden: int=256", "hidden: int=255", ANNOUNCED
    ),
    Mutation(
        "un-embedding without bias",
        "announced",
        "self.unembed = nn.ConvTranspose2d(width, 3, patch, stride=patch)",
        "self.unembed = nn.ConvTranspose2d(width, 3, patch, stride=patch, bias=False)",
        ANNOUNCED,
    ),
    Mutation(
        "router too narrow",
        "announced",
        "nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, len(keep))",
        "nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, len(keep))",
        ANNOUNCED,
    ),
    Mutation(
        "one output bias for all experts",
        "announced",
        "self.out_bias = nn.Parameter(torch.empty(len(keep), width)",
        "self.out_bias = nn.Parameter(torch.empty(1, width)",
        ANNOUNCED,
    ),
    Mutation(
        "merge without bias",
        "announced",
        "self.merge = nn.Linear(width, width)",
        "self.merge = nn.Linear(width, width, bias=False)",
        ANNOUNCED,
    ),
    Mutation("mask off", "announced", "attn_mask=kept)", "attn_mask=None)", ANNOUNCED),
    Mutation(
        "one key too few",
        "announced",
        "scores.topk(k, dim=-1",
        "scores.topk(k - 1, dim=-1",
        ANNOUNCED,
    ),
    Mutation(
        "threshold instead of exactly k",
        "announced",
        "return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, top, True)",
        "return scores >= scores.gather(-1, top).amin(-1, keepdim=True)",
        ANNOUNCED,
    ),
    Mutation(
        "dense only above k",
        "announced",
        "if keep >= k.shape[-2]:",
        "if keep >= k.shape[-2] - 1:",
        ANNOUNCED,
    ),
    Mutation("gates not applied", "announced", "* gates[..., None]", "", ANNOUNCED),
    Mutation(
        "gates detached",
        "announced",
        "self.experts(tokens, replace_gates(gates, routing))",
        "self.experts(tokens, replace_gates(gates, routing).detach())",
        ANNOUNCED,
    ),
    Mutation("gates by sigmoid", "announced", "nn.Softmax(dim=-1)", "nn.Sigmoid()", ANNOUNCED),
    Mutation(
        "hard routing takes the smallest",
        "announced",
        "gates.argmax(-1)",
        "gates.argmin(-1)",
        ANNOUNCED,
    ),
    Mutation(
        "shuffled router is not shuffled",
        "announced",
        "return gates[:, order.to(gates.device)]",
        "return gates",
        ANNOUNCED,
    ),
    Mutation(
        "unknown routing passes",
        "announced",
        'raise ValueError(f"routing is {routing.how!r}; choose one',
        'return gates\n    raise ValueError(f"routing is {routing.how!r}; choose one',
        ANNOUNCED,
    ),
    Mutation(
        "balance term with the sign turned",
        "announced",
        "(-math.log(experts) - means.log())",
        "(math.log(experts) + means.log())",
        ANNOUNCED,
    ),
    Mutation(
        "never clamped",
        "announced",
        "image if self.training and (not self.clamp_training) else image.clamp(0, 1)",
        "image",
        ANNOUNCED,
    ),
    Mutation(
        "switch of the clamp ignored",
        "announced",
        "image if self.training and (not self.clamp_training) else image.clamp(0, 1)",
        "image.clamp(0, 1)",
        ANNOUNCED,
    ),
    Mutation(
        "size not checked",
        "announced",
        "if noisy.shape[1:] != (3, self.size, self.size):",
        "if False:",
        ANNOUNCED,
    ),
    Mutation(
        "denoise leaves evaluation mode on",
        "denoiser",
        "model.train(was_training)",
        "pass",
        ANNOUNCED,
    ),
    Mutation(
        "entropy in nats",
        "announced",
        "100 * torch.special.entr(gates)",
        "torch.special.entr(gates)",
        ANNOUNCED,
    ),
    Mutation(
        "outputs above one count as alive",
        "announced",
        "inside = (raw > 0) & (raw < 1)",
        "inside = raw > 0",
        ANNOUNCED,
    ),
    Mutation(
        "initial weights from the global generator",
        "denoiser",
        "with torch.random.fork_rng(devices=[]):",
        "if True:",
        ANNOUNCED,
    ),
    # files
    Mutation(
        "another configuration is accepted",
        "common/weights",
        "if differ:",
        "if False:",
        ANNOUNCED,
    ),
    Mutation(
        "written in place",
        "common/weights",
        "with files.atomic(path) as partial:\n        partial.write_bytes(to_bytes",
        "if True:\n        Path(path).write_bytes(to_bytes",
        ANNOUNCED,
    ),
    # training
    Mutation(
        "order not seeded",
        "run",
        "torch.Generator().manual_seed(config.order_seed)",
        "torch.Generator().manual_seed(0)",
        BOTH,
    ),
    Mutation(
        "noise not seeded",
        "run",
        "torch.Generator(device).manual_seed(config.noise_seed)",
        "torch.Generator(device).manual_seed(torch.Generator().seed() % 2**31)",
        BOTH,
    ),
    Mutation(
        "initial seed ignored",
        "run",
        "denoiser.build(config.arm, config.init_seed)",
        "denoiser.build(config.arm, 0)",
        ANNOUNCED,
    ),
    Mutation(
        "state without the noise generator",
        "run",
        "self.noise.set_state(tensors['noise'])",
        "pass",
        BOTH,
    ),
    Mutation(
        "state without the optimiser",
        "run",
        "optimiser.load_state_dict({'state': slots, 'param_groups': groups})",
        "pass",
        BOTH,
    ),
    Mutation(
        "state without the averages", "run", "if self.config.average else [])", "if False else [])"
    ),
    Mutation(
        "divergence goes unseen",
        "run",
        "if not (norm.isfinite() and total.isfinite() and (mse < 1)):",
        "if False:",
        ANNOUNCED,
    ),
    Mutation(
        "images not checked",
        "run",
        "if images.dtype != np.uint8 or images.shape[1:2] != (3,) or len(images) != config.images:",
        "if False:",
        ANNOUNCED,
    ),
    Mutation(
        "rate constant", "run", "optimiser.param_groups[0]['lr'] = share * full", "pass", BOTH
    ),
    Mutation("cosine by step", "run", "step // self.epoch)", "step / self.epoch)", ANNOUNCED),
    Mutation(
        "cooling from the start",
        "run",
        "(self.steps - step) / (self.cooling * self.steps)",
        "(self.steps - step) / self.steps",
    ),
    Mutation(
        "validation not logged",
        "training",
        "if validate or run.step % config.log_every == 0:",
        "if run.step % (2 * config.log_every) == 0:",
        ANNOUNCED,
    ),
    Mutation(
        "Muon also trains the first layer",
        "denoiser",
        "OUTER = ('stem', 'head',",
        "OUTER = ('head',",
    ),
    Mutation("Muon off", "run", "if config.muon else []", "if False else []"),
    Mutation("averages off", "run", "mean.lerp_(value, 1 - decay)", "mean.copy_(value)"),
    Mutation("never flipped", "run", "clean = clean.flip(3)", "pass"),
    Mutation(
        "one noise level", "run", "torch.where(draw[0] < config.varied, spread, sigma)", "sigma"
    ),
    Mutation(
        "levels spread evenly, not by their logarithm",
        "run",
        "SIGMAS[0] * (SIGMAS[1] / SIGMAS[0]) ** draw[1]",
        "SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * draw[1]",
    ),
    Mutation(
        "bfloat16 ignored",
        "run",
        "torch.bfloat16, enabled=config.bf16)",
        "torch.bfloat16, enabled=False)",
    ),
    Mutation("gradient thrown away", "run", "            optimiser.step()\n", "            pass\n"),
    Mutation(
        "skipping starts at once",
        "run",
        "skip=self.step >= config.whole * config.steps",
        "skip=True",
    ),
    Mutation("logarithm ignored", "run", "if config.logarithm else mse", "if False else mse"),
    Mutation(
        "logarithm of the mean, not mean of the logarithms",
        "run",
        "(errors + FLOOR).log().mean()",
        "(errors.mean() + FLOOR).log()",
    ),
    Mutation(
        "optimiser's sums in another order than the weights",
        "run",
        "value = torch.empty_like(owner).copy_(value) if value.shape == owner.shape else value",
        "pass",
    ),
    Mutation(
        "Muon's matrix in another order than its gradient",
        "run",
        "matrix.grad = by_rows(weight.grad)",
        "matrix.grad = weight.grad",
    ),
    Mutation(
        "pace ignored", "training", "denoiser.ARMS[arm].pace * section.epochs", "section.epochs"
    ),
    # windows
    Mutation(
        "rows and columns exchanged",
        "windows",
        "cut.permute(0, 2, 4, 3, 5, 1)",
        "cut.permute(0, 2, 4, 5, 3, 1)",
    ),
    Mutation(
        "windows not put back",
        "windows",
        ".permute(0, 5, 1, 3, 2, 4)",
        ".permute(0, 5, 3, 1, 2, 4)",
    ),
    Mutation("remainders not checked", "windows", "if h % t or w % t:", "if False:"),
    Mutation("scale missing", "windows", "attn_mask=bias)", "attn_mask=bias, scale=1.0)"),
    Mutation("bias missing", "windows", "attn_mask=bias)", "attn_mask=None)"),
    Mutation(
        "own block not forced", "windows", "scores.scatter_(2, own[..., None], math.inf)", "pass"
    ),
    Mutation(
        "worst blocks instead of best",
        "windows",
        "scores = q.mean(2) @ k.mean(2).mT",
        "scores = -q.mean(2) @ k.mean(2).mT",
    ),
    Mutation(
        "one block too many", "windows", "min(1 + reach, k.shape[1])", "min(2 + reach, k.shape[1])"
    ),
    Mutation("number of blocks not limited", "windows", "min(1 + reach, k.shape[1])", "1 + reach"),
    Mutation(
        "values of the wrong image",
        "windows",
        "(index + windows * torch.arange(len(index), device=index.device)[:, None])",
        "index",
    ),
    Mutation(
        "last chunk lost",
        "windows",
        "return torch.cat(parts, dim=1)",
        "return torch.cat(parts[:1], dim=1)",
    ),
    Mutation(
        "relative places folded",
        "windows",
        "offset[..., 0] * side + offset[..., 1]",
        "offset[..., 0] + offset[..., 1]",
    ),
    Mutation(
        "capacity off by one",
        "windows",
        "first, second = (round(total * share) for share in shares)",
        "first, second = (min(total, round(total * share) + 1) for share in shares)",
    ),
    Mutation(
        "router constant",
        "windows",
        "probabilities = self.score(features).softmax(-1)",
        "probabilities = self.score(0 * features).softmax(-1)",
    ),
    Mutation(
        "router blind to spread",
        "windows",
        "windows.abs().mean(2)], dim=-1)",
        "windows.mean(2)], dim=-1)",
    ),
    Mutation(
        "router blind to the mean",
        "windows",
        "torch.cat([windows.mean(2),",
        "torch.cat([0 * windows.mean(2),",
    ),
    Mutation("gate detached", "windows", "1 + (taken - taken.detach())", "1 + 0 * taken.detach()"),
    Mutation("gate with a value", "windows", "1 + (taken - taken.detach())", "taken"),
    Mutation(
        "gate of another expert",
        "windows",
        "gather(1, 3 * order + expert)",
        "gather(1, 3 * order + 2 - expert)",
    ),
    Mutation(
        "lowest scores go to the global expert",
        "windows",
        "far.topk(first, 1).indices",
        "far.topk(first, 1, largest=False).indices",
    ),
    Mutation(
        "local expert takes the lowest scores",
        "windows",
        "torch.where(chosen > 0, 1 + far, near)",
        "torch.where(chosen > 0, 1 + far, -near)",
    ),
    Mutation(
        "random routing without its generator",
        "windows",
        "generator=routing.generator, device=routing.generator.device)",
        "device=routing.generator.device)",
    ),
    Mutation(
        "random routing does not ask for a generator",
        "windows",
        "if routing.generator is None:",
        "if False:",
    ),
    Mutation("fixed routing by rows", "windows", "* 0.6180339887 % 1", ""),
    Mutation(
        "fixed routing depends on the image",
        "windows",
        "return keys.argsort().expand(b, m)",
        "return (keys + probabilities[..., 0]).argsort(1)",
    ),
    Mutation("unknown plan passes", "windows", "if routing.how in PLANS:", "if True:"),
    Mutation(
        "all means learned",
        "windows",
        "{'all': (1, 1), 'none': (0, 0)}.get",
        "{'none': (0, 0)}.get",
    ),
    Mutation(
        "none means learned",
        "windows",
        "{'all': (1, 1), 'none': (0, 0)}.get",
        "{'all': (1, 1)}.get",
    ),
    Mutation(
        "local windows look at the wrong place",
        "windows",
        "own = take(normed, near)",
        "own = take(normed, far)[:, :1].expand(-1, second - first, -1, -1)",
    ),
    Mutation(
        "hidden layer without the attention",
        "windows",
        "take(windows, routed) + change))",
        "take(windows, routed)))",
    ),
    Mutation(
        "attention is not added", "windows", "change = change + self.ffn(", "change = self.ffn("
    ),
    Mutation(
        "skipped windows are scaled",
        "windows",
        "result = windows.flatten(0, 1).index_add(",
        "result = (0.9 * windows).flatten(0, 1).index_add(",
    ),
    Mutation(
        "dense in disguise",
        "windows",
        "choose_blocks(part, k, at, reach, across, near)",
        "choose_blocks(part, k, at, k.shape[1], across, near)",
    ),
    Mutation(
        "nothing is skipped in time",
        "windows",
        "if second == 0:\n            return",
        "if second == 0:\n            self.far(take(normed, order), normed, order)\n            return",
    ),
    Mutation(
        "experts swapped in the map",
        "windows",
        ".scatter_(1, routed, 1).scatter_(1, far, 0)",
        ".scatter_(1, routed, 0).scatter_(1, far, 1)",
    ),
    Mutation(
        "places across windows ignored",
        "windows",
        "down = (other // across",
        "down = 0 * (other // across",
    ),
    Mutation(
        "distant blocks have no bias of their own",
        "windows",
        ".clamp(-1, 1)\n    return",
        "\n    return",
    ),
    Mutation("row of windows forgotten", "windows", "normed, far, w // self.t)", "normed, far)"),
    Mutation(
        "bias seen from the other side",
        "windows",
        "+ place - place[:, None] + side // 2",
        "+ place[:, None] - place + side // 2",
    ),
    Mutation("bfloat16 without scale", "windows", "q * q.shape[-1] ** (-0.5) @ k.mT", "q @ k.mT"),
    Mutation(
        "bfloat16 without bias", "windows", "scores if bias is None else scores + bias", "scores"
    ),
    Mutation(
        "skips from the start",
        "windows",
        "shares = self.shares if routing.skip else",
        "shares = self.shares if True else",
    ),
    Mutation(
        "without skipping the local expert grows",
        "windows",
        "(1 - self.shares[1] + self.shares[0], 1)",
        "(self.shares[0], 1)",
    ),
    # network
    Mutation(
        "noise level not an input",
        "network",
        "level = self.level(sigma.log()[:, None])",
        "level = self.level(0 * sigma.log()[:, None])",
    ),
    Mutation(
        "prediction not in units of sigma",
        "network",
        "padded - sigma[:, None, None, None] * noise",
        "padded - noise",
    ),
    Mutation(
        "prediction replaces the input",
        "network",
        "image = (padded - sigma[:, None, None, None] * noise)",
        "image = (sigma[:, None, None, None] * noise)",
    ),
    Mutation(
        "clamped in training",
        "network",
        "image if self.training else image.clamp(0, 1)",
        "image.clamp(0, 1)",
    ),
    Mutation(
        "never clamped at evaluation",
        "network",
        "image if self.training else image.clamp(0, 1)",
        "image",
    ),
    Mutation("padding not cut off", "network", "[:, :, :h, :w]", "[:, :]"),
    Mutation(
        "always repeated at the border", "network", "mode = 'reflect' if", "mode = 'replicate' if"
    ),
    Mutation("always reflected at the border", "network", "else 'replicate'", "else 'reflect'"),
    Mutation("control of another size", "network", "range(4 if routed else 2)", "range(4)"),
    Mutation(
        "mixture left out",
        "network",
        "x, expert = block(x, routing)",
        "_, expert = block(x, routing)",
    ),
    Mutation("plan not passed on", "network", "block(x, routing)", "block(x, LEARNED)"),
    Mutation("no skip connection", "network", "x = skip + self.up(x)", "x = self.up(x)"),
    Mutation(
        "the router does not explore",
        "denoiser",
        "Arm(lambda: Trunk(routed=True), 'random')",
        "Arm(lambda: Trunk(routed=True))",
    ),
    Mutation(
        "validated along random routes",
        "training",
        "ARMS[config.arm].routing)",
        "ARMS[config.arm].exploring)",
    ),
    # several processes
    Mutation("all processes take the first share", "ranks", "[self.rank]", "[0]", RANKS),
    Mutation("gradients added up", "ranks", "flat.div_(self.world)", "flat", RANKS),
    Mutation(
        "gates averaged per process", "ranks", "all_reduce(value) / self.world", "value", RANKS
    ),
    Mutation(
        "random routes drawn per process",
        "windows",
        "routing.ranks.own(keys).argsort(1)",
        "keys[:b].argsort(1)",
        RANKS,
    ),
    Mutation("every process writes", "training", "if ranks.rank == 0:", "if True:", RANKS),
    # the bank, its router, the allocation and the regions
    Mutation("halo a position too narrow", "bank", "before = 4", "before = 2", BANK),
    Mutation("spare rows stay", "bank", "spare(self.size) // 2", "0", BANK),
    Mutation(
        "attention without halo",
        "bank",
        "before + UNIT + spare(size)",
        "before + spare(size)",
        BANK,
    ),
    Mutation(
        "prediction not in units of the level",
        "bank",
        "levels * self.noise(padded, levels)",
        "self.noise(padded, levels)",
        BANK,
    ),
    Mutation(
        "region in other units",
        "bank",
        "levels * self.noise(noisy, level, sides)",
        "self.noise(noisy, level, sides)",
        BANK,
    ),
    Mutation("padding stays", "bank", "image[:, :, :h, :w].contiguous()", "image", BANK),
    Mutation(
        "attention looks everywhere", "bank", "WINDOW, REACH, near=True)", "WINDOW, REACH)", BANK
    ),
    Mutation(
        "halo for free",
        "regions",
        "bank.operations(sizes[area.member], rows, columns, sides)",
        "bank.operations(sizes[area.member], rows, columns)",
        BANK,
    ),
    Mutation("halo at the border of the image", "regions", "area.top > 0,", "True,", BANK),
    Mutation(
        "rectangles run over other members",
        "regions",
        "usable = free & (plan == member)",
        "usable = free",
        BANK,
    ),
    Mutation("last cell lost", "regions", "+ [length]", "+ [CELL * count]", BANK),
    Mutation(
        "budget of a photograph ignored",
        "regions",
        "if spent <= budget:\n            high",
        "if True:\n            high",
        BANK,
    ),
    Mutation(
        "price has the wrong sign",
        "allocate",
        "errors + price * costs",
        "errors - price * costs",
        BANK,
    ),
    Mutation(
        "over the budget",
        "allocate",
        "return choose(errors, costs, high)",
        "return choose(errors, costs, low)",
        BANK,
    ),
    Mutation("noise not discounted", "router", "energy / of_noise + 0.001", "energy + 0.001", BANK),
    Mutation(
        "rules see everything",
        "router",
        "found[..., self.seen]",
        "found[..., :len(self.seen)]",
        BANK,
    ),
    Mutation(
        "gains taken for errors", "router", "smallest + targets[..., 1:]", "targets[..., 1:]", BANK
    ),
    Mutation(
        "router from the global generator",
        "router",
        "with torch.random.fork_rng(devices=[]):\n        torch.manual_seed(seed)",
        "if True:",
        BANK,
    ),
    Mutation("router for free", "judge", "mean()) + routing", "mean())", BANK),
    Mutation(
        "random routes are the learned ones", "judge", "psnr @ shares", "psnr[rows, plan]", BANK
    ),
    Mutation(
        "frontier linear in operations",
        "judge",
        "np.interp(math.log(spent), np.log(self.costs)",
        "np.interp(spent, self.costs",
        BANK,
    ),
    Mutation(
        "level not estimated by place",
        "levels",
        "NORMAL_MEDIAN\n",
        "NORMAL_MEDIAN * 0 + 0.1\n",
        BANK,
    ),
    Mutation(
        "every patch is noisy",
        "levels",
        "levels[order[:noisy_cells]] = high",
        "levels[:] = high",
        BANK,
    ),
    Mutation(
        "router not paid",
        "adaptive",
        "budget * costs[-1] - router.operations(len(costs))",
        "budget * costs[-1] + 0 * router.operations(len(costs))",
        BANK,
    ),
    Mutation(
        "always the first member",
        "adaptive",
        "chosen = plan == number",
        "chosen = (plan >= 0) & (number == 0)",
        BANK,
    ),
]
