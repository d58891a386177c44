// Team: threads that walk through the phases of a step together.
//
// A phase is a number of chunks; whoever is free takes the next. A phase is over when its chunks are done, not when
// all threads have come: a thread that the machine keeps waiting (two threads beside another busy process) delays at
// most the one chunk it holds, and finds the phases it missed already done.
#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fs {

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Team;

// One thread's walk through one run. Phases must come in the same order, with the same counts, in every thread.
class Walk {
  public:
    Walk(Team& team, uint32_t run, int thread) : thread(thread), run(run), team_(team) {}

    // f(chunk) for the chunks this thread gets; returns false when the run is over and the thread came too late.
    template <class F>
    bool phase(int chunks, F f);

    const int thread;
    const uint32_t run;  // counts from 1

  private:
    Team& team_;
    int phase_ = 0;
};

class Team {
  public:
    // work(walk) is what every thread does in every run; false where a phase told it to leave. It reads its data from an object that outlives the team, never
    // from the caller's frame: a latecomer may look at the data of the next run before it sees that it is too late.
    // max_phases: of one run. Throws what std::thread throws where the machine has no more threads.
    Team(int num_threads, int max_phases, std::function<bool(Walk&)> work)
        : num_threads(num_threads), phases_(new Phase[max_phases]), max_(max_phases), work_(std::move(work)) {
        try {
            for (int t = 1; t < num_threads; t++) threads_.emplace_back([this, t] { follow(t); });
        } catch (...) {  // a thread that is destroyed while it runs would end the process
            end_threads();
            throw;
        }
    }
    ~Team() { end_threads(); }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    // Returns when all phases of a new run are done. One caller at a time. Throws where the caller's own walk did not
    // come to its end: there were more phases than max_phases.
    void run() {
        const uint32_t run = run_.load(std::memory_order_relaxed) + 1;
        if (num_threads > 1) {
            for (int i = 0; i < max_; i++) {
                phases_[i].done.store(0, std::memory_order_relaxed);
                phases_[i].next.store(uint64_t(run) << 32, std::memory_order_release);
            }
            run_.store(run);
            wake();
        }
        Walk walk(*this, run, 0);
        if (!work_(walk)) throw std::logic_error("a step has more phases than its team has room for");
    }

    const int num_threads;

  private:
    friend class Walk;

    struct alignas(64) Phase {
        std::atomic<uint64_t> next{0};  // run << 32 | chunk
        std::atomic<int32_t> done{0};
    };

    void end_threads() {
        stopping_.store(true);
        wake();
        for (auto& thread : threads_) thread.join();
    }

    static void pause_or_yield(int spins) {
        if (spins > 2000)
            sched_yield();
        else
            relax();
    }

    void wake() {
        signal_.fetch_add(1);
        if (sleeping_.load() > 0) syscall(SYS_futex, (uint32_t*)&signal_, FUTEX_WAKE_PRIVATE, 1 << 30, nullptr, nullptr, 0);
    }

    void follow(int thread) {
        uint32_t seen = 0;
        while (wait_for_run(seen)) {
            seen = run_.load();
            Walk walk(*this, seen, thread);
            work_(walk);
        }
    }

    // Spins for a while, for the next step follows soon, then sleeps.
    bool wait_for_run(uint32_t seen) {
        auto start = std::chrono::steady_clock::now();
        for (int spins = 0; !stopping_.load(std::memory_order_relaxed); spins++) {
            const uint32_t signal = signal_.load();
            if (run_.load(std::memory_order_acquire) != seen) return true;
            relax();
            if (spins % 256 == 255 && std::chrono::steady_clock::now() - start > std::chrono::microseconds(300)) {
                sleeping_.fetch_add(1);
                if (run_.load() == seen && !stopping_.load())
                    syscall(SYS_futex, (uint32_t*)&signal_, FUTEX_WAIT_PRIVATE, signal, nullptr, nullptr, 0);
                sleeping_.fetch_sub(1);
            }
        }
        return false;
    }

    std::unique_ptr<Phase[]> phases_;
    const int max_;
    const std::function<bool(Walk&)> work_;
    std::atomic<uint32_t> run_{0}, signal_{0};
    std::atomic<int32_t> sleeping_{0};
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> threads_;
};

template <class F>
bool Walk::phase(int chunks, F f) {
    if (team_.num_threads == 1) {
        for (int c = 0; c < chunks; c++) f(c);
        return true;
    }
    if (phase_ == team_.max_) return false;
    Team::Phase& phase = team_.phases_[phase_++];
    const uint64_t first = uint64_t(run) << 32;
    for (;;) {
        uint64_t next = phase.next.load(std::memory_order_relaxed);
        if (next >> 32 != run) return false;
        if (int64_t(next - first) >= chunks) break;
        if (!phase.next.compare_exchange_weak(next, next + 1, std::memory_order_acquire)) continue;
        f(int(next - first));
        phase.done.fetch_add(1, std::memory_order_release);
    }
    for (int spins = 0; phase.done.load(std::memory_order_acquire) < chunks; spins++) {
        if (phase.next.load(std::memory_order_relaxed) >> 32 != run) return false;
        Team::pause_or_yield(spins);
    }
    return true;
}

}  // namespace fs
