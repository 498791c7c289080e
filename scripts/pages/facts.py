"""What the tuners' pages say that no code says: when to use one, and how its example begins."""

from __future__ import annotations

from dataclasses import dataclass

LORA = "r (in + out) a layer"


@dataclass(frozen=True)
class Tuner:
    """One page.

    Attributes:
        name: of the file, and of the picture.
        title: what people call it.
        line: what it is, in a line of the index.
        about: what it is and when to use it.
        trained: how many parameters train.
        config: the class in `swift.tuners`, or where else it is.
        example: the arguments of that class on a small model.
        equation: what it computes, where the docstring of the class does not say it.
        paper: where that is from, likewise.
        yaml: its file in configs/sft.
        more: what the command line says beside that file.
        options: the topics of `swift sft --help`, or single options, that are its.
        cost: its row in cost.md.
        costs: what that row does not say.
        merges: it can become part of the weights.
        on: what it is for.
        host: the model of the example.
    """

    name: str
    title: str
    line: str
    about: str
    trained: str
    config: str = ""
    example: str = ""
    equation: str = ""
    paper: str = ""
    yaml: str = ""
    more: str = ""
    options: tuple[str, ...] = ()
    cost: str = ""
    costs: str = ""
    merges: bool = False
    on: str = "both"
    host: str = "language"


QV = 'target_modules=["q_proj", "v_proj"]'
TOKENS = 'num_virtual_tokens=8, task_type="CAUSAL_LM"'

TUNERS = (
    Tuner(
        "lora",
        "LoRA",
        "a low-rank update beside a frozen weight",
        "LoRA keeps every weight as it is and learns a small update beside it: a product of two thin matrices. It is "
        "the usual first choice: it learns nearly as much as full training on most tasks, an adapter is a few "
        "megabytes, and once merged it costs nothing. Give it all linear layers (`--lora_target_modules ALL`) when "
        "the model should learn facts or a new manner, the attention alone when memory is short.",
        LORA,
        "LoraConfig",
        f"r=8, lora_alpha=32, {QV}",
        "y = W x + (alpha / r) B A drop(x),    B = 0 at the start",
        yaml="lora",
        options=("LoRA",),
        cost="LoRA",
        merges=True,
    ),
    Tuner(
        "rslora",
        "rsLoRA",
        "LoRA scaled for high ranks",
        "With LoRA's scale of alpha / r a higher rank hardly learns more, since its update shrinks. rsLoRA divides by "
        "the square root of r, which keeps the update's size whatever the rank. Use it from a rank of about 32 on; "
        "it costs nothing.",
        LORA,
        "LoraConfig",
        f"r=64, lora_alpha=32, use_rslora=True, {QV}",
        "y = W x + (alpha / √r) B A drop(x)",
        "rsLoRA, <https://arxiv.org/abs/2312.03732>, theorem 3.2",
        "rslora",
        options=("use_rslora", "lora_rank", "lora_alpha"),
        cost="rsLoRA",
        merges=True,
    ),
    Tuner(
        "dora",
        "DoRA",
        "LoRA on the direction of every weight, its length apart",
        "DoRA splits a weight into directions and lengths, updates the directions by LoRA and trains the lengths as "
        "they are. At low ranks it often learns better than LoRA; a step takes somewhat longer and more memory, since "
        "the updated weight has to be made to know its lengths. Merged it is as fast as LoRA.",
        "r (in + out) + out a layer",
        "LoraConfig",
        f"r=8, lora_alpha=32, use_dora=True, {QV}",
        "y = m ⊙ (W + s B A) x / |W + s B A|,    s = alpha / r\n\n"
        "| |: the length of each row, taken as a constant by the gradient; m = |W| at the start",
        "DoRA, <https://arxiv.org/abs/2402.09353>, equation 5 and section 4.3",
        "dora",
        options=("use_dora", "lora_rank", "lora_alpha"),
        cost="DoRA",
        merges=True,
    ),
    Tuner(
        "pissa",
        "PiSSA",
        "LoRA that starts from the weight's largest singular vectors",
        "LoRA starts at zero and needs a while to find where to go. PiSSA starts A and B as the strongest part of the "
        "weight itself and trains that, which converges faster. The base stays untouched here: what the start adds is "
        "taken away beside it, so an adapter can be switched off, live beside others and be saved as a plain LoRA.",
        LORA,
        "LoraConfig",
        f'r=8, lora_alpha=8, init_lora_weights="pissa_niter_4", {QV}',
        "y = W x + s B A drop(x) - s B0 A0 drop(x)\n\n"
        "U S V = svd(W);    B0 = U √S / √s,  A0 = √S V / √s  of the r largest;    B = B0, A = A0 at the start",
        "PiSSA, <https://arxiv.org/abs/2404.02948>, section 3, and its appendix on the conversion to LoRA",
        "pissa",
        options=("init_lora_weights", "lora_rank", "lora_alpha"),
        cost="LoRA",
        costs="The row is LoRA's. The second half, which is frozen, adds as much to the file, and to a step the "
        "memory and the time of a LoRA of twice the rank; one decomposition of each target comes at the start.",
        merges=True,
    ),
    Tuner(
        "olora",
        "OLoRA",
        "LoRA that starts from the weight's QR decomposition",
        "As PiSSA, but with a start that is orthonormal: the first columns of Q and rows of R. The decomposition is "
        "quicker than PiSSA's, and training is said to be steadier at high learning rates.",
        LORA,
        "LoraConfig",
        f'r=8, lora_alpha=8, init_lora_weights="olora", {QV}',
        "y = W x + s B A drop(x) - s B0 A0 drop(x)\n\n"
        "Q R = qr(W);    B0 A0 = the first r columns of Q times the first r rows of R;    B = B0, A = A0 at the start",
        "OLoRA, <https://arxiv.org/abs/2406.01775>, section 3",
        "olora",
        options=("init_lora_weights", "lora_rank", "lora_alpha"),
        cost="LoRA",
        costs="The row is LoRA's. The second half, which is frozen, adds as much to the file, and to a step the "
        "memory and the time of a LoRA of twice the rank; one decomposition of each target comes at the start.",
        merges=True,
    ),
    Tuner(
        "lora_plus",
        "LoRA+",
        "LoRA whose B learns faster than its A",
        "In LoRA both matrices have one learning rate, though the one that starts at zero has further to go. LoRA+ "
        "gives B a rate some 16 times that of A: the same model for the same cost, learnt in fewer steps. Take half "
        "of LoRA's usual rate with it. The command line and `Seq2SeqTrainer` ask for these rates by themselves; an "
        'optimiser of your own is given them by a SwiftModel: `model = Swift.prepare_model(model, {"a": config})`, '
        "then `torch.optim.AdamW(model.create_optimizer_param_groups(lr=1e-4))`.",
        LORA,
        "LoraConfig",
        f"r=8, lora_alpha=32, lorap_lr_ratio=16.0, {QV}",
        "y = W x + (alpha / r) B A drop(x)\n\nA ← A - lr · step(A),    B ← B - lorap_lr_ratio · lr · step(B)",
        "LoRA+, <https://arxiv.org/abs/2402.12354>, section 4",
        "lora_plus",
        options=("lora_lr_ratio", "lora_rank", "lora_alpha"),
        cost="LoRA",
        costs="The row is LoRA's: only the rates differ.",
        merges=True,
    ),
    Tuner(
        "fused",
        "LoRA in fused projections",
        "LoRA in some of the parts of one weight for query, key and value",
        "Some models make queries, keys and values in one weight. `use_merged_linear` gives each chunk that "
        "`enable_lora` names a LoRA of its own and leaves the others, as the LoRA paper does with query and value. "
        "For models such as GPT-2, BLOOM, ChatGLM or Qwen of the first generation.",
        "K r (in + out / chunks) a layer, K tuned chunks",
        "LoRAConfig",
        'r=8, target_modules=["gate_proj"], use_merged_linear=True, enable_lora=[True, False]',
        "y_k = W_k x + (alpha / r) B_k A_k drop(x)    for each tuned chunk k\n"
        "y_k = W_k x                                  for the others",
        "LoRA, <https://arxiv.org/abs/2106.09685>, section 4.2",
        "fused",
        cost="LoRA, two of three fused",
        merges=True,
    ),
    Tuner(
        "adalora",
        "AdaLoRA",
        "LoRA whose ranks shrink where they are needed least",
        "AdaLoRA writes the update as P λ Q, like a singular value decomposition, starts every layer with a higher "
        "rank, and while training sets those λ to zero that matter least, until a mean rank is left. Use it when a "
        "fixed budget of parameters should go to the layers that need it. The trainer tells it how many steps there "
        "are.",
        "r (in + out + 1) a layer",
        "AdaLoraConfig",
        f"init_r=12, target_r=8, total_step=100, {QV}",
        "y = W x + (alpha / r) P diag(λ) Q drop(x)\n\n"
        "loss + orth_reg_weight · mean(|PᵀP - 1| + |QQᵀ - 1|);    the least important λ become 0 step by step",
        "AdaLoRA, <https://arxiv.org/abs/2303.10512>, sections 3.1 to 3.3",
        "adalora",
        options=("AdaLoRA",),
        cost="AdaLoRA",
        merges=True,
    ),
    Tuner(
        "ia3",
        "IA3",
        "one trained factor for each number of some activations",
        "IA3 multiplies keys, values and the inside of the feed-forward part by trained vectors. It has the fewest "
        "parameters of all, kilobytes a task, and is made for few examples; it needs a high learning rate and learns "
        "less than LoRA from much data.",
        "out a layer; in for feed-forward layers",
        "IA3Config",
        'target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]',
        "y = l ⊙ (W x)      keys, values\ny = W (l ⊙ x)      feed-forward layers,    l = 1 at the start",
        "IA3, <https://arxiv.org/abs/2205.05638>, section 3.3",
        "ia3",
        options=("IA3",),
        cost="IA3",
        merges=True,
    ),
    Tuner(
        "boft",
        "BOFT",
        "weights turned by butterfly products of small rotations",
        "BOFT turns what a weight reads without stretching it, as OFT does, by a product of sparse rotations that "
        "together reach every pair of dimensions. It keeps angles between neurons and so what the model knew; it was "
        "made for diffusion models and vision. It is slower to train than LoRA, and as fast once merged.",
        "m in b + out a layer; blocks of b, m factors",
        "BOFTConfig",
        f"boft_block_size=4, boft_n_butterfly_factor=1, {QV}",
        "y = s ⊙ (W R_1 ... R_m x)\n\n"
        "R_i: blocks on the diagonal, shuffled; each (1 + Q)(1 - Q)⁻¹ with Q skew;    R = 1, s = 1 at the start",
        "BOFT, <https://arxiv.org/abs/2311.06243>, section 4; s is PEFT's addition",
        "boft",
        options=("BOFT",),
        cost="BOFT",
        merges=True,
    ),
    Tuner(
        "oft",
        "OFT",
        "weights turned by small rotations along their diagonal",
        "OFT turns what a weight reads by a block-diagonal rotation: lengths and angles stay, so that a model forgets "
        "little. Use it where the base has to be kept well, such as subjects and styles in image models; it is "
        "lighter than BOFT.",
        "in (b - 1) / 2 a layer; blocks of b",
        "OFTConfig",
        f"r=0, oft_block_size=8, {QV}",
        "y = W R x,    R = diag(R_1, ..., R_in/b),    R_i = (1 + Q_i)(1 - Q_i)⁻¹,  Q_i skew, 0 at the start",
        "OFT, <https://arxiv.org/abs/2306.07280>, section 3; on the input's side, as PEFT has it",
        "oft",
        options=("OFT",),
        cost="OFT",
        merges=True,
    ),
    Tuner(
        "loha",
        "LoHa",
        "an update that is a Hadamard product of two low-rank ones",
        "LoHa multiplies two low-rank matrices number by number: the update has a rank of up to r² for twice LoRA's "
        "parameters. It comes from federated learning and is liked for image models, where it keeps style and content "
        "apart; it needs more memory than LoRA, since both products are written out.",
        "2 r (in + out) a layer",
        "LoHaConfig",
        f"r=8, alpha=8, {QV}",
        "y = (W + (alpha / r) (B1 A1) ⊙ (B2 A2)) x,    one of the factors 0 at the start",
        "FedPara, <https://arxiv.org/abs/2108.06098>, section 2; LyCORIS, <https://arxiv.org/abs/2309.14859>",
        "loha",
        options=("LoHa",),
        cost="LoHa",
        merges=True,
    ),
    Tuner(
        "lokr",
        "LoKr",
        "an update that is a Kronecker product",
        "LoKr makes the update of one small block that is repeated with other factors. It has very few parameters for "
        "its rank, so its files are tiny; what it can say is more regular than with LoRA.",
        "out₁ in₁ + r (out₂ + in₂) a layer, in = in₁ in₂",
        "LoKrConfig",
        f"r=8, alpha=8, {QV}",
        "y = (W + (alpha / r) C ⊗ (B A)) x\n\nC (out₁, in₁), B (out₂, r), A (r, in₂);    one factor 0 at the start",
        "LyCORIS, <https://arxiv.org/abs/2309.14859>, section 3",
        "lokr",
        options=("LoKr",),
        cost="LoKr",
        merges=True,
    ),
    Tuner(
        "vera",
        "VeRA",
        "two trained vectors around random matrices that all layers share",
        "VeRA draws A and B once, shares them among all layers of a shape and trains only two vectors for each layer. "
        "A tenth of LoRA's parameters, or less, for a little less quality: for thousands of adapters of one model.",
        "r + out a layer",
        "VeraConfig",
        'r=64, target_modules=["q_proj"]',
        "y = W x + b ⊙ (B (d ⊙ (A drop(x))))\n\n"
        "A (r, in), B (out, r): random, frozen, shared;    b = 0, d = 0.1 at the start",
        "VeRA, <https://arxiv.org/abs/2310.11454>, section 3.1",
        "vera",
        options=("VeRA",),
        cost="VeRA",
        costs="The file holds the shared matrices, so that it needs nothing else.",
        merges=True,
    ),
    Tuner(
        "fourierft",
        "FourierFT",
        "a few coefficients of the update's Fourier transform",
        "FourierFT trains a thousand or so coefficients of each layer's update, at random frequencies, and transforms "
        "them back. The number of parameters does not depend on the size of the layer. For very small files; a step "
        "takes longer, since the whole update is written out.",
        "n a layer",
        "FourierFTConfig",
        f"n_frequency=200, scaling=150.0, {QV}",
        "y = (W + scaling · Re(IDFT2(F))) x,    F has n_frequency numbers that are not 0, at random places",
        "FourierFT, <https://arxiv.org/abs/2405.03003>, section 3.1",
        "fourierft",
        options=("FourierFT",),
        cost="FourierFT",
        merges=True,
    ),
    Tuner(
        "prefix_tuning",
        "Prefix tuning",
        "trained keys and values before the text, in every layer",
        "Prefix tuning lets every attention look at a few trained keys and values besides the text's. The weights of "
        "the model are not touched, so one batch can have other prefixes in each row. For generation and small data; "
        "a prefix takes places of the context, and learns slower than LoRA.",
        "2 tokens · width of keys, a layer",
        "PrefixTuningConfig",
        TOKENS,
        "attention(Q, [P_K; K], [P_V; V])    in each layer;    with prefix_projection P = MLP(P′)",
        "Prefix-Tuning, <https://arxiv.org/abs/2101.00190>, section 4",
        "prefix_tuning",
        options=("Virtual tokens",),
        cost="Prefix",
        on="language",
    ),
    Tuner(
        "prompt_tuning",
        "Prompt tuning",
        "trained embeddings before the text",
        "Prompt tuning learns a few embeddings that stand before every text, as if one could write a prompt with "
        "words that do not exist. It has hardly any parameters, and works best with large models; start it from real "
        "words by `--prompt_init_text`, and give it a high learning rate. Padding between it and the text does not "
        "count: a row padded on the left gives what it gives alone, which it does not in PEFT.",
        "tokens · hidden size",
        "PromptTuningConfig",
        TOKENS,
        "model([P; E(text)])",
        "Prompt Tuning, <https://arxiv.org/abs/2104.08691>, section 2",
        "prompt_tuning",
        options=("Virtual tokens",),
        cost="Prompt",
        on="language",
    ),
    Tuner(
        "p_tuning",
        "P-Tuning",
        "virtual tokens that a small network makes",
        "P-Tuning learns its virtual tokens through an MLP or an LSTM, which makes them easier to learn than free "
        "embeddings. It was made for understanding tasks with models such as GPT-2 and BERT. After training the "
        "network is no longer needed: its tokens are saved.",
        "tokens · hidden size, and the network's",
        "PromptEncoderConfig",
        f"encoder_hidden_size=32, {TOKENS}",
        "model([MLP(P); E(text)])    or    model([MLP(LSTM(P)); E(text)])",
        "GPT Understands, Too, <https://arxiv.org/abs/2103.10385>, section 3",
        "p_tuning",
        options=("Virtual tokens",),
        cost="P-Tuning",
        on="language",
    ),
    Tuner(
        "adapter",
        "Adapter",
        "a bottleneck after a module",
        "The oldest of these methods: a small network with a bottleneck after every MLP, added to what the MLP gave. "
        "It learns well and goes with any module that returns hidden states, in text, vision and diffusion models "
        "alike; it stays a part of the model at inference, where LoRA can be merged.",
        "2 D L + D + L a module",
        "AdapterConfig",
        'dim=model.config.hidden_size, target_modules=["mlp"], adapter_length=32',
        yaml="adapter",
        options=("Adapter",),
        cost="Adapter",
    ),
    Tuner(
        "prompt",
        "Visual prompt tuning",
        "trained tokens among the tokens of every layer",
        "Visual prompt tuning puts a few trained tokens among the patches that each layer is given. The standard light "
        "tuner of vision transformers; here it works in language models too, with masks and positions taken care of. "
        "Shallow (the first layer only) is cheapest, deep learns more.",
        "P D a layer",
        "PromptConfig",
        'dim=model.config.hidden_size, target_modules=r".*\\.layers?\\.\\d+", prompt_length=4, extract_embedding=True',
        yaml="prompt",
        cost="Visual prompt",
        host="vit",
    ),
    Tuner(
        "side",
        "Side-tuning",
        "a small network beside a module, mixed with it",
        "Side-tuning trains a small network that reads what a module reads, and a gate that says how much of each is "
        "taken. The model itself is neither changed nor, beside the whole of it, asked for gradients: good for "
        "images, for learning one task after another, and for models that are only run.",
        "2 D² + 2 D + 1 for `mlp`",
        "SideConfig",
        'dim=model.config.hidden_size, target_modules=["mlp"], side_module_name="mlp"',
        yaml="side",
        cost="Side",
        host="vit",
    ),
    Tuner(
        "restuning",
        "Res-Tuning",
        "a chain of small tuners beside the model",
        "Res-Tuning takes the tuners out of the model: a chain beside it reads what its layers give and replaces what "
        "reaches the head. No gradient goes through the model, so training needs a fraction of the time and memory. "
        "For vision backbones and U-Nets with much data to pass through.",
        "2 (65 D + 32) a stem",
        "ResTuningConfig",
        'dims=model.config.hidden_size,\n    root_modules=r".*\\.layers?\\.0",\n'
        '    stem_modules=r".*\\.layers?\\.\\d+",\n'
        '    target_modules=r"vit\\.layernorm",',
        yaml="restuning",
        cost="Res-Tuning",
        host="vit",
    ),
    Tuner(
        "scetuning",
        "SCEdit",
        "a tuner on every skip connection of a U-Net",
        "SCEdit edits only what flows through the skip connections of a diffusion model's U-Net, and in `decoder` mode "
        "only the decoder takes part in the backward pass: image models are tuned, or steered by a condition such as "
        "edges or depth, with far less memory than LoRA or ControlNet.",
        "2 C R + C + R a connection",
        "SCETuningConfig",
        'dims=[16, 8, 8, 8], target_modules=r"up_blocks\\.\\d\\.resnets\\.\\d", down_ratio=0.5',
        yaml="scetuning",
        cost="SCEdit",
        on="vision",
        host="unet",
    ),
    Tuner(
        "llamapro",
        "LLaMA-Pro",
        "new blocks among the layers, which do nothing at the start",
        "LLaMA-Pro makes the model deeper: copies of some layers are put behind them, start as identities, and alone "
        "are trained. For new knowledge in large amounts, a language or a field, that must not push out the old; it "
        "needs more memory and time than the other tuners, and the model stays larger.",
        "those of the new blocks",
        "LLaMAProConfig",
        "num_new_blocks=2",
        yaml="llamapro",
        options=("LLaMA-Pro",),
        cost="LLaMA-Pro",
        merges=True,
        on="language",
    ),
    Tuner(
        "longlora",
        "LongLoRA",
        "LoRA for long texts, trained with attention in shifted groups",
        "LongLoRA trains on long texts at the price of short ones: while training, every head attends only within a "
        "group of positions, and half of the heads have groups that are shifted, so that neighbours talk to each "
        "other. Embeddings and norms train with it. At inference attention is the model's own.",
        f"{LORA}, embeddings, norms",
        "LongLoRAConfig",
        f"r=8, lora_alpha=32, {QV}, group_size_ratio=0.25",
        yaml="longlora",
        options=("LongLoRA",),
        cost="LongLoRA",
        merges=True,
        on="language",
    ),
    Tuner(
        "neftune",
        "NEFTune",
        "noise on the embeddings while training",
        "NEFTune adds a little noise to the embeddings while training. It has no parameters and goes with any tuner or "
        "with full training; on small sets of instructions it keeps a model from learning the wording by heart and "
        "makes its answers better, and longer.",
        "none",
        "NEFTuneConfig",
        "noise_alpha=5.0",
        yaml="neftune",
        options=("NEFTune",),
        cost="NEFTune",
        costs="Alone it goes with full training, so the file in the row holds the model.",
        on="language",
    ),
    Tuner(
        "part",
        "Part",
        "a trained copy of some modules that can be switched off",
        "Part trains some modules in full, such as the last MLP, the norms or the head, as a copy beside the "
        "originals: the base can be had back at any time, and several such copies can lie side by side. For a few "
        "modules that should learn all they can.",
        "those of the modules",
        "PartConfig",
        'target_modules=["down_proj"]',
        yaml="part",
        cost="Part",
    ),
    Tuner(
        "reft",
        "ReFT",
        "edits of the hidden states in a small subspace",
        "ReFT changes no weight: after some layers it edits the hidden states at the first and last positions of the "
        "prompt, in a subspace of a few dimensions. By its paper it needs ten to fifty times fewer parameters than "
        "LoRA, and it costs nothing while the answer is written, since only the prompt is edited.",
        "2 r D + r a layer",
        "ReftConfig",
        "r=4",
        yaml="reft",
        options=("ReFT",),
        cost="ReFT",
        on="language",
    ),
    Tuner(
        "galore",
        "GaLore",
        "full training with the optimiser's state in a low-rank space",
        "GaLore trains every parameter but keeps the optimiser's moments in a small subspace of each gradient, which "
        "is where full training needs most of its memory. For full training on one GPU, when LoRA does not learn "
        "enough. Q-GaLore (`--galore_quantization`, `--galore_proj_quant`; `configs/sft/q_galore.yaml`) saves still "
        "more. It leaves nothing in the model: what is saved is the model.",
        "all",
        "swift.trainers.GaLoreConfig",
        "rank=16",
        yaml="galore",
        options=("GaLore",),
        on="language",
        host="galore",
    ),
    Tuner(
        "lisa",
        "LISA",
        "full training, a few layers at a time",
        "LISA trains the embeddings, the head and a few layers at a time, drawn anew every few steps. Memory is near "
        "that of LoRA and the result near that of full training. It leaves nothing in the model: what is saved is the "
        "model.",
        "embeddings, head, γ layers at a time",
        "swift.trainers.Lisa",
        yaml="lisa",
        options=("LISA",),
        on="language",
        host="lisa",
    ),
    Tuner(
        "unsloth",
        "UnSloth",
        "LoRA by the kernels of another package, on GPUs",
        "UnSloth is a package with GPU kernels for LoRA, which train faster and in less memory. `--tuner_backend "
        "unsloth` loads the model and makes its LoRA by it; the adapter is PEFT's. It needs a CUDA GPU and `pip "
        "install unsloth`, and says so where one of them is missing; it knows plain LoRA and rsLoRA, one at a time.",
        LORA,
        equation="y = W x + (alpha / r) B A x",
        paper="the package, <https://github.com/unslothai/unsloth>",
        yaml="lora",
        more="--tuner_backend unsloth",
        options=("tuner_backend",),
        merges=True,
        on="language",
    ),
)

CHOOSE = """
| you want | take |
|---|---|
| to begin, or anything else not below | [LoRA](lora.md) in all linear layers |
| more from the same rank | [DoRA](dora.md), [LoRA+](lora_plus.md), or a start by [PiSSA](pissa.md) |
| a high rank | [rsLoRA](rslora.md) |
| the smallest files, for many adapters | [VeRA](vera.md), [IA3](ia3.md), [ReFT](reft.md), [FourierFT](fourierft.md) |
| few examples | [IA3](ia3.md), [ReFT](reft.md), [prompt tuning](prompt_tuning.md) |
| that the model keeps what it knew | [OFT](oft.md), [BOFT](boft.md), [LLaMA-Pro](llamapro.md) |
| much new knowledge | [LLaMA-Pro](llamapro.md), [GaLore](galore.md), [LISA](lisa.md) |
| long texts | [LongLoRA](longlora.md) |
| better answers from a small set | any of them and [NEFTune](neftune.md) |
| to tune a vision transformer | [LoRA](lora.md), [visual prompts](prompt.md), [Res-Tuning](restuning.md) |
| to tune a diffusion U-Net | [SCEdit](scetuning.md), [LoRA](lora.md), [OFT](oft.md) |
| no gradient through the model | [Res-Tuning](restuning.md), [side-tuning](side.md) |
""".strip()
