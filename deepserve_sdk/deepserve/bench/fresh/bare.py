from wait import say_and_wait

say_and_wait(1)
