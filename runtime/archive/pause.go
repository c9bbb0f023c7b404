package archive

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Pause returns the archive image of the process that holds a pod's
// namespaces: /pause, one page of memory.
func Pause(name, arch string) (Image, error) {
	elf, err := pauseELF(arch)
	if err != nil {
		return Image{}, err
	}
	return Image{
		Name: name, Arch: arch, User: "65535:65535",
		Files:      []File{{Path: "pause", Mode: 0o755, Data: elf}},
		Entrypoint: []string{"/pause"},
	}, nil
}

// pauseCode is the machine code of the program for each architecture, which
// ends with the signal set it refers to (SIGINT, SIGTERM, SIGCHLD). It blocks
// these signals, because the first process of a PID namespace gets no signal
// that it neither handles nor blocks, and then waits for one after another:
//
//	rt_sigprocmask(SIG_BLOCK, &set, NULL, 8)
//	loop: switch (rt_sigtimedwait(&set, NULL, NULL, 8)) {
//	case SIGCHLD: while (wait4(-1, NULL, WNOHANG, NULL) > 0); break;
//	case SIGTERM: case SIGINT: exit_group(0);
//	} goto loop
//
// With a PID namespace shared by the pod, it inherits and reaps orphans.
var pauseCode = map[string][]byte{
	"amd64": {
		0xb8, 14, 0, 0, 0, // mov eax, rt_sigprocmask
		0x31, 0xff, // xor edi, edi: SIG_BLOCK
		0x48, 0x8d, 0x35, 90, 0, 0, 0, // lea rsi, [set]
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
		0x0f, 0x05, // syscall
		// loop:
		0xb8, 128, 0, 0, 0, // mov eax, rt_sigtimedwait
		0x48, 0x8d, 0x3d, 68, 0, 0, 0, // lea rdi, [set]
		0x31, 0xf6, // xor esi, esi
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
		0x0f, 0x05, // syscall
		0x83, 0xf8, 17, 0x74, 0x0c, // cmp eax, SIGCHLD; je reap
		0x83, 0xf8, 15, 0x74, 0x24, // cmp eax, SIGTERM; je exit
		0x83, 0xf8, 2, 0x74, 0x1f, // cmp eax, SIGINT; je exit
		0xeb, 0xd7, // jmp loop
		// reap:
		0xb8, 61, 0, 0, 0, // mov eax, wait4
		0xbf, 0xff, 0xff, 0xff, 0xff, // mov edi, -1
		0x31, 0xf6, // xor esi, esi
		0xba, 1, 0, 0, 0, // mov edx, WNOHANG
		0x45, 0x31, 0xd2, // xor r10d, r10d
		0x0f, 0x05, // syscall
		0x83, 0xf8, 0, 0x7f, 0xe5, // cmp eax, 0; jg reap
		0xeb, 0xba, // jmp loop
		// exit:
		0xb8, 231, 0, 0, 0, // mov eax, exit_group
		0x31, 0xff, // xor edi, edi
		0x0f, 0x05, // syscall
		0xcc, // int3: pads to 8 bytes
		0x02, 0x40, 0x01, 0, 0, 0, 0, 0,
	},
	"arm64": words(
		0xd28010e8, // mov x8, rt_sigprocmask
		0xaa1f03e0, // mov x0, xzr: SIG_BLOCK
		0x100003c1, // adr x1, set
		0xaa1f03e2, // mov x2, xzr
		0xb27d03e3, // mov x3, 8
		0xd4000001, // svc 0
		// loop:
		0xd2801128, // mov x8, rt_sigtimedwait
		0x10000320, // adr x0, set
		0xaa1f03e1, // mov x1, xzr
		0xaa1f03e2, // mov x2, xzr
		0xb27d03e3, // mov x3, 8
		0xd4000001, // svc 0
		0xf100441f, // cmp x0, SIGCHLD
		0x540000c0, // b.eq reap
		0xf1003c1f, // cmp x0, SIGTERM
		0x540001a0, // b.eq exit
		0xf100081f, // cmp x0, SIGINT
		0x54000160, // b.eq exit
		0x17fffff4, // b loop
		// reap:
		0xd2802088, // mov x8, wait4
		0x92800000, // mov x0, -1
		0xaa1f03e1, // mov x1, xzr
		0xb24003e2, // mov x2, WNOHANG
		0xaa1f03e3, // mov x3, xzr
		0xd4000001, // svc 0
		0xf100001f, // cmp x0, 0
		0x54ffff2c, // b.gt reap
		0x17ffffeb, // b loop
		// exit:
		0xd2800bc8, // mov x8, exit_group
		0xaa1f03e0, // mov x0, xzr
		0xd4000001, // svc 0
		0xd503201f, // nop: pads to 8 bytes
		0x00014002, 0,
	),
}

var pauseMachine = map[string]uint16{"amd64": 62, "arm64": 183}

func words(ws ...uint32) []byte {
	var b []byte
	for _, w := range ws {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// pauseELF wraps the code in the smallest ELF file: one header, one segment
// that is read and executed.
func pauseELF(arch string) ([]byte, error) {
	code, ok := pauseCode[arch]
	if !ok {
		return nil, fmt.Errorf("there is no pause program for %s", arch)
	}
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		uint16(2), pauseMachine[arch], uint32(1), // executable
		uint64(base + headers), uint64(64), uint64(0), // entry, program and section headers
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		// the segment: load, read and execute, whole file, 64 KiB aligned
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x10000),
		// no executable stack is asked for by another header, which would be
		// as long as the program; nothing is on the stack.
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			return nil, err
		}
	}
	b.Write(code)
	return b.Bytes(), nil
}
