/* Runs an exported policy on a Cortex-M: acts on each observation of a file of the host, by semihosting, and tells the
 * instructions of an action and the stack that it takes. The emulator executes one instruction a nanosecond
 * (-icount shift=0), so that the system timer counts instructions; a loop of known length says how many a tick has. */
#include <stdint.h>

#include "policy.h"

#define REPEATS 20U
#define LOOPS 100000U
#define PAINT 0xA5U

extern volatile uint8_t free_memory[];
extern uint32_t top_of_stack;

#if defined(POLICY_ACTIONS)
typedef int32_t action_type;
#else
typedef float action_type;
#endif

int main(void);

#if defined(__ARM_ARCH_7EM__)
#define COPROCESSORS (*(volatile uint32_t *)0xE000ED88U)
#endif
#define TIMER_CONTROL (*(volatile uint32_t *)0xE000E010U)
#define TIMER_RELOAD (*(volatile uint32_t *)0xE000E014U)
#define TIMER_VALUE (*(volatile uint32_t *)0xE000E018U)

static void reset(void)
{
#if defined(COPROCESSORS)
    COPROCESSORS |= 0xFU << 20U; /* the floating-point unit */
    __asm volatile("dsb\n isb");
#endif
    (void)main();
}

__attribute__((section(".vectors"), used)) static const void *const vectors[2] = {&top_of_stack, (const void *)reset};

static uint32_t host(uint32_t operation, const void *arguments)
{
    register uint32_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = arguments;

    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uint32_t open_file(const char *name, uint32_t length, uint32_t mode)
{
    const uint32_t arguments[3] = {(uint32_t)name, mode, length};

    return host(0x01U, arguments);
}

/* How many bytes were not read or written */
static uint32_t transfer(uint32_t operation, uint32_t file, const void *buffer, uint32_t size)
{
    const uint32_t arguments[3] = {file, (uint32_t)buffer, size};

    return host(operation, arguments);
}

static uint32_t ticks_until_now(uint32_t start)
{
    return (start - TIMER_VALUE) & 0xFFFFFFU;
}

static uint32_t stack_bytes(const float *observation, action_type *action)
{
    const uint32_t here = (uint32_t)__builtin_frame_address(0);
    const uint32_t size = here - 256U - (uint32_t)free_memory; /* but for what this function has itself */
    uint32_t i;

    for (i = 0U; i < size; i++)
    {
        free_memory[i] = PAINT;
    }
    policy_act(observation, action);
    for (i = 0U; (i < size) && (free_memory[i] == PAINT); i++)
    {
    }
    return here - ((uint32_t)free_memory + i);
}

int main(void)
{
    const uint32_t input = open_file("observations.bin", 16U, 1U);
    const uint32_t output = open_file("actions.bin", 11U, 5U);
    const uint32_t counts = open_file("counts.bin", 10U, 5U);
    float observation[POLICY_OBSERVATION_SIZE];
    action_type action[POLICY_ACTION_SIZE];
    uint32_t result[5];
    uint32_t start;
    uint32_t i;
    uint32_t loops = LOOPS;

    while (transfer(0x06U, input, observation, sizeof observation) == 0U)
    {
        policy_act(observation, action);
        (void)transfer(0x05U, output, action, sizeof action);
    }
    TIMER_RELOAD = 0xFFFFFFU;
    TIMER_VALUE = 0U;
    TIMER_CONTROL = 5U;
    start = TIMER_VALUE;
    __asm volatile("1: sub %0, #1\n cmp %0, #0\n bne 1b" : "+l"(loops) : : "cc");
    result[0] = ticks_until_now(start);
    result[1] = LOOPS * 3U;
    start = TIMER_VALUE;
    for (i = 0U; i < REPEATS; i++)
    {
        policy_act(observation, action);
    }
    result[2] = ticks_until_now(start);
    result[3] = REPEATS;
    result[4] = stack_bytes(observation, action);
    (void)transfer(0x05U, counts, result, sizeof result);
    (void)host(0x18U, (const void *)0x20026U); /* the end, without an error */
    return 0;
}
