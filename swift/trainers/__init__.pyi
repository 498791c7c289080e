from swift.trainers.arguments import Seq2SeqTrainingArguments, training_arguments
from swift.trainers.callbacks import CALLBACKS, register_callback
from swift.trainers.galore import GaLoreConfig
from swift.trainers.lisa import Lisa
from swift.trainers.loss import LOSSES, register_loss
from swift.trainers.metrics import METRICS, register_metric
from swift.trainers.optimizers import GaLore, create_galore_optimizer
from swift.trainers.trainer import Seq2SeqTrainer
