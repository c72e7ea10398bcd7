/* Lets the user-mode Linux of Debian 12 run on processors with AMX: it knows floating point states of up to 2,696
   bytes, and the host's kernel takes back nothing but a whole one. What it does not know is filled up with zeros,
   the state of registers that nobody has used. Preloaded; newer versions do without. */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

long ptrace(enum __ptrace_request request, ...)
{
	static char whole[1 << 16];
	va_list rest;
	va_start(rest, request);
	long pid = va_arg(rest, long);
	void *address = va_arg(rest, void *), *data = va_arg(rest, void *);
	va_end(rest);

	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long word, failed = syscall(SYS_ptrace, request, pid, address, &word);
		return failed ? failed : word;
	}
	if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
		struct iovec *known = data, all = { whole, sizeof whole };
		if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, address, &all) == 0 && known->iov_len < all.iov_len) {
			memset(whole, 0, all.iov_len);
			memcpy(whole, known->iov_base, known->iov_len);
			data = &all;
			return syscall(SYS_ptrace, request, pid, address, data);
		}
	}
	return syscall(SYS_ptrace, request, pid, address, data);
}
