"""What unlabelled images, pretraining and agents are worth: experiments that survive an interruption."""
