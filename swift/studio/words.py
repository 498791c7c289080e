"""What the studio says, in English and Chinese."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """All texts of the pages in one language; braces are filled in."""

    language: str
    studio: str
    workspace: str
    dark: str
    train: str
    runs: str
    chat: str
    export: str
    evaluate: str
    login: str
    kind: str
    kinds: Mapping[str, str]
    sections: Mapping[str, str]
    charts: Mapping[str, str]
    states: Mapping[str, str]
    upload: str
    uploaded: str
    preview: str
    previewing: str
    preview_title: str
    all_options: str
    all_options_hint: str
    search: str
    search_hint: str
    found: str
    command: str
    copy: str
    yaml: str
    problems: str
    run_name: str
    run_name_hint: str
    processes: str
    processes_hint: str
    devices: str
    devices_hint: str
    start: str
    started: str
    check: str
    checking: str
    checked: str
    estimate: str
    estimating: str
    estimate_wait: str
    estimate_not: str
    estimate_ask: str
    estimate_other: str
    memory_needed: str
    memory_free: str
    too_much: str
    parameters: str
    trained: str
    step_time: str
    run_time: str
    no_runs: str
    choose_run: str
    compare: str
    compare_hint: str
    differences: str
    same_options: str
    stop: str
    stop_now: str
    resume: str
    resumed: str
    stopped: str
    use_options: str
    used_options: str
    talk_to_it: str
    nothing_yet: str
    step: str
    checkpoints: str
    no_checkpoints: str
    log: str
    started_at: str
    model: str
    data: str
    tuner: str
    loss: str
    checkpoint: str
    checkpoint_hint: str
    load: str
    loading: str
    loaded: str
    not_loaded: str
    chat_empty: str
    unload: str
    unloaded: str
    message: str
    send: str
    end: str
    clear: str
    system: str
    system_hint: str
    temperature: str
    new_tokens: str
    answering: str
    answer_stopped: str
    answered: str
    task_hint: str
    tasks: str
    no_tasks: str
    auto: str


ENGLISH = Words(
    language="en",
    studio="Studio",
    workspace="Workspace",
    dark="Light or dark",
    train="Train",
    runs="Runs",
    chat="Chat",
    export="Export",
    evaluate="Evaluate",
    login="This page is for invited users.",
    kind="What to do",
    kinds={"sft": "Fine-tune on conversations", "pt": "Pre-train on text", "rlhf": "Learn from preferences"},
    sections={
        "model": "Model",
        "preference": "Preferences",
        "data": "Data",
        "tuner": "Tuner",
        "training": "Training",
        "merge": "Merge and convert",
        "quantise": "Quantise",
        "metrics": "What is measured",
        "run": "Run",
    },
    charts={
        "loss": "Loss",
        "acc": "Token accuracy",
        "learning_rate": "Learning rate",
        "speed": "Tokens per second",
        "memory": "Memory (GiB)",
    },
    states={
        "running": "running",
        "stopping": "saving and stopping",
        "done": "finished",
        "stopped": "stopped",
        "failed": "failed",
        "ended": "ended",
    },
    upload="Upload data",
    uploaded="Uploaded as {path}.",
    preview="Preview",
    previewing="Reading and encoding the data …",
    preview_title="What the model will see and learn",
    all_options="All options",
    all_options_hint="Every option of the command line; empty fields keep their defaults.",
    search="Search options",
    search_hint="a name or a word of its description",
    found="{count} options",
    command="Command line",
    copy="Copy",
    yaml="Download as YAML",
    problems="What is still missing or wrong",
    run_name="Name of the run",
    run_name_hint="a number and the time",
    processes="Processes",
    processes_hint="one",
    devices="GPUs",
    devices_hint="all, or such as 0,1",
    start="Start training",
    started="Started: {path}",
    check="Check everything",
    checking="Checking model, data and options …",
    checked="Everything is in order.",
    estimate="Estimate",
    estimating="estimating …",
    estimate_wait="Choose a model and data, and memory and time are estimated here.",
    estimate_not="No estimate: {why}",
    estimate_ask="A model of a hub is looked up when you press the button.",
    estimate_other="Training on preferences is not estimated.",
    memory_needed="{needed} of memory",
    memory_free="{free} free",
    too_much="more than is free",
    parameters="parameters",
    trained="of them train",
    step_time="a step",
    run_time="in all, {steps} steps",
    no_runs="No runs in this workspace yet. Start one under Train, or with swift sft in a terminal.",
    choose_run="Run",
    compare="Compare",
    compare_hint="Choose two runs or more",
    differences="What they do differently",
    same_options="These runs have the same options.",
    stop="Stop and save",
    stop_now="End at once",
    resume="Resume",
    resumed="Going on from {path}.",
    stopped="The run saves a checkpoint and stops after the step it is at.",
    use_options="Use its options",
    used_options="The form under Train holds the options of {path}.",
    talk_to_it="Chat with it",
    nothing_yet="nothing logged yet",
    step="step",
    checkpoints="Checkpoints",
    no_checkpoints="none yet",
    log="Log",
    started_at="started",
    model="model",
    data="data",
    tuner="tuner",
    loss="loss",
    checkpoint="Model or checkpoint",
    checkpoint_hint="a checkpoint of this workspace, a model's directory, or a registered name",
    load="Load",
    loading="Loading {name} …",
    loaded="{name} is ready.",
    not_loaded="Choose a model and load it.",
    chat_empty="Load a model, then ask it something.",
    unload="Unload",
    unloaded="Unloaded; its memory is free again.",
    message="Message",
    send="Send",
    end="Stop",
    clear="Clear",
    system="System prompt",
    system_hint="the template's own",
    temperature="Temperature",
    new_tokens="Longest answer, in tokens",
    answering="writing …",
    answer_stopped="stopped",
    answered="answered in {seconds:.1f} s",
    task_hint="Runs as a process of its own; it goes on when this page is closed.",
    tasks="What was started here",
    no_tasks="Nothing yet.",
    auto="default",
)
CHINESE = Words(
    language="zh",
    studio="工作台",
    workspace="工作目录",
    dark="浅色或深色",
    train="训练",
    runs="运行",
    chat="对话",
    export="导出",
    evaluate="评测",
    login="本页面仅限受邀用户使用。",
    kind="训练类型",
    kinds={"sft": "对话微调", "pt": "文本继续预训练", "rlhf": "偏好学习"},
    sections={
        "model": "模型",
        "preference": "偏好",
        "data": "数据",
        "tuner": "微调方法",
        "training": "训练",
        "merge": "合并与转换",
        "quantise": "量化",
        "metrics": "评测指标",
        "run": "运行",
    },
    charts={
        "loss": "损失",
        "acc": "词元准确率",
        "learning_rate": "学习率",
        "speed": "每秒词元数",
        "memory": "内存 (GiB)",
    },
    states={
        "running": "运行中",
        "stopping": "正在保存并停止",
        "done": "已完成",
        "stopped": "已停止",
        "failed": "失败",
        "ended": "已结束",
    },
    upload="上传数据",
    uploaded="已上传为 {path}。",
    preview="预览",
    previewing="正在读取并编码数据……",
    preview_title="模型将看到什么、学习什么",
    all_options="全部选项",
    all_options_hint="命令行的全部选项；留空则使用默认值。",
    search="搜索选项",
    search_hint="选项名或说明中的词",
    found="{count} 个选项",
    command="命令行",
    copy="复制",
    yaml="下载 YAML",
    problems="尚缺少或有误之处",
    run_name="运行名称",
    run_name_hint="序号加时间",
    processes="进程数",
    processes_hint="一个",
    devices="GPU",
    devices_hint="全部，或如 0,1",
    start="开始训练",
    started="已启动：{path}",
    check="全面检查",
    checking="正在检查模型、数据和选项……",
    checked="一切就绪。",
    estimate="预估",
    estimating="正在预估……",
    estimate_wait="选择模型和数据后，这里会显示内存与时间的预估。",
    estimate_not="无法预估：{why}",
    estimate_ask="来自模型库的模型，点按钮后才会查询。",
    estimate_other="偏好学习暂不支持预估。",
    memory_needed="需要内存 {needed}",
    memory_free="可用 {free}",
    too_much="超出可用内存",
    parameters="参数",
    trained="参与训练",
    step_time="每步",
    run_time="共 {steps} 步",
    no_runs="工作目录中还没有运行。请在“训练”页启动，或在终端中使用 swift sft。",
    choose_run="运行",
    compare="对比",
    compare_hint="选择两个或更多运行",
    differences="不同的选项",
    same_options="这些运行的选项相同。",
    stop="停止并保存",
    stop_now="立即结束",
    resume="继续训练",
    resumed="从 {path} 继续。",
    stopped="完成当前步后保存检查点并停止。",
    use_options="沿用其选项",
    used_options="“训练”页的表单已填入 {path} 的选项。",
    talk_to_it="与它对话",
    nothing_yet="尚无记录",
    step="步",
    checkpoints="检查点",
    no_checkpoints="暂无",
    log="日志",
    started_at="开始于",
    model="模型",
    data="数据",
    tuner="方法",
    loss="损失",
    checkpoint="模型或检查点",
    checkpoint_hint="工作目录中的检查点、模型目录，或已注册的名称",
    load="加载",
    loading="正在加载 {name} ……",
    loaded="{name} 已就绪。",
    not_loaded="请选择并加载一个模型。",
    chat_empty="加载模型后即可开始对话。",
    unload="卸载",
    unloaded="已卸载，内存已释放。",
    message="输入消息",
    send="发送",
    end="停止",
    clear="清空",
    system="系统提示词",
    system_hint="模板自带",
    temperature="温度",
    new_tokens="回答的最大词元数",
    answering="正在生成……",
    answer_stopped="已停止",
    answered="用时 {seconds:.1f} 秒",
    task_hint="作为独立进程运行，关闭页面后仍会继续。",
    tasks="已启动的任务",
    no_tasks="暂无。",
    auto="默认",
)
LANGUAGES = {"en": ENGLISH, "zh": CHINESE}


def choose_words(said: str | None, environment: Mapping[str, str] = os.environ) -> Words:
    """The texts in the language that was said, else in the locale's, else in English."""
    locale = next((environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), "")
    return LANGUAGES[said or ("zh" if locale.lower().startswith("zh") else "en")]
