/* The part of Python that the provider's C files use, and an upcall in C. See stub_python.c. */
#ifndef STUB_PYTHON_H
#define STUB_PYTHON_H

#include <openssl/evp.h>

enum { STUB_SIGNS, STUB_RAISES, STUB_NO_BYTES, STUB_TOO_LONG, STUB_TOO_SHORT, STUB_END };

extern EVP_PKEY *stub_signer;        /* who signs */
extern int stub_answer;              /* how the upcall ends */
extern char stub_scheme[32];         /* what it was asked for last */
extern unsigned char stub_ski[20];

void stub_start(void); /* set the upcall, as Python would */
void stub_stop(void);  /* and take everything back; aborts if an object is left */

#endif
