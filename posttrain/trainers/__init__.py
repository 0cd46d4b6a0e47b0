"""The public trainers: constructors that choose source, learner and loss."""
