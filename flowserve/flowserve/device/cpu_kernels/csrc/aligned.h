// Memory whose start is a line of the cache: tiles that cross lines load at a quarter of the speed.
//
// It is all zero. Large rooms come from the system and take memory only where they are written: an engine whose steps
// are short never touches most of what it holds for its longest, and engines by the dozen start in no time.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <utility>
#include <vector>

namespace fs {

constexpr size_t LARGE_ROOM = 64 << 10;

template <class T>
struct LineAllocator {
    using value_type = T;
    LineAllocator() = default;
    template <class U>
    LineAllocator(const LineAllocator<U>&) {}
    T* allocate(size_t n) {
        const size_t bytes = n * sizeof(T);
        if (bytes < LARGE_ROOM)
            return static_cast<T*>(std::memset(::operator new(bytes, std::align_val_t(64)), 0, bytes));
        void* room = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room == MAP_FAILED) throw std::bad_alloc();
        return static_cast<T*>(room);
    }
    void deallocate(T* p, size_t n) {
        if (n * sizeof(T) < LARGE_ROOM)
            ::operator delete(p, std::align_val_t(64));
        else
            ::munmap(p, n * sizeof(T));
    }
    template <class U>
    void construct(U*) noexcept {}  // zero already: a vector here is given its size once
    template <class U, class... Args>
    void construct(U* p, Args&&... args) {
        ::new (static_cast<void*>(p)) U(std::forward<Args>(args)...);
    }
    template <class U>
    bool operator==(const LineAllocator<U>&) const { return true; }
    template <class U>
    bool operator!=(const LineAllocator<U>&) const { return false; }
};

template <class T>
using Lines = std::vector<T, LineAllocator<T>>;

}  // namespace fs
