// Arrival: how far a model's weights have come, for steps that run while later layers are still read.
//
// Parts are counted: the embedding, then each layer, then what is behind the layers.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace fs {

class Arrival {
  public:
    explicit Arrival(int32_t there) : there_(there) {}

    // From any thread. Fewer than none: no more will come.
    void note(int32_t there) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            there_ = there;
        }
        changed_.notify_all();
    }

    int32_t there() {
        std::lock_guard<std::mutex> lock(mutex_);
        return there_;
    }

    // Waits until so many parts are there; false where they will not be.
    bool wait_for(int32_t parts) {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return there_ < 0 || there_ >= parts; });
        return there_ >= parts;
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    int32_t there_;
};

}  // namespace fs
