// cpu.h: which instructions this program was built for, whether the processor has them, and how to change
// over to a build for others. One build has one path (simd.h): `make` builds for this processor, and
// `make SIMD=avx2` builds ./build/avx2/train beside it.
#ifndef CPU_H
#define CPU_H

// Ends the program with one line where the processor lacks instructions that the compiler may have used;
// without it the first of them would end it with SIGILL. Call it before everything else. Also where the machine or the
// build rounds in another way than all others (fma.h), and where cpu_switch
// came here from a build of another commit: the same flags would not have to give the same bits.
void cpu_check(const char *commit);

// --simd NAME: returns when this program takes the path NAME ("auto": whichever it takes); else goes on
// as the build for NAME, found from where this program lies. One line where there is no such path, the
// processor lacks it, or it is not built.
void cpu_switch(const char *name, const char *commit, char **argv);
#endif
