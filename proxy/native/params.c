/*
 * OSSL_PARAM, without libcrypto's functions for it: we link against no OpenSSL.
 *
 * Integers in an OSSL_PARAM have any width, either signedness and the machine's byte order; numbers of ours are
 * big-endian bytes. A put without a place (data NULL) only tells the size, as OSSL_PARAM_set_*() do.
 */
#define _POSIX_C_SOURCE 200809L
#include <string.h>

#include "sealgate.h"

OSSL_PARAM *find(const OSSL_PARAM *params, const char *name)
{
    for (; params != NULL && params->key != NULL; params++)
        if (strcmp(params->key, name) == 0)
            return (OSSL_PARAM *)params;
    return NULL;
}

/* Between big-endian and the machine's byte order: its own inverse. */
void copy_native(unsigned char *to, const unsigned char *from, size_t bytes)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    memcpy(to, from, bytes);
#else
    for (size_t i = 0; i < bytes; i++)
        to[i] = from[bytes - 1 - i];
#endif
}

int put_number(OSSL_PARAM *param, const unsigned char *number, size_t bytes)
{
    unsigned char padded[MAX_PUBLIC_BYTES + 1] = {0};
    size_t wanted = bytes;

    if (param == NULL)
        return 1;
    if (param->data_type != OSSL_PARAM_INTEGER && param->data_type != OSSL_PARAM_UNSIGNED_INTEGER)
        return 0;
    if (param->data_type == OSSL_PARAM_INTEGER && (number[0] & 0x80) != 0)
        wanted++; /* room for the sign */
    param->return_size = wanted;
    if (param->data == NULL)
        return 1;
    if (param->data_size < wanted)
        return 0;
    memcpy(padded + wanted - bytes, number, bytes);
    memset(param->data, 0, param->data_size);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    copy_native((unsigned char *)param->data + param->data_size - wanted, padded, wanted);
#else
    copy_native(param->data, padded, wanted);
#endif
    param->return_size = param->data_size;
    return 1;
}

int put_int(OSSL_PARAM *param, size_t value)
{
    unsigned char number[2] = {(unsigned char)(value >> 8), (unsigned char)value};
    size_t skip = number[0] == 0 ? 1 : 0;

    return put_number(param, number + skip, sizeof number - skip);
}

static int put_data(OSSL_PARAM *param, unsigned int type, const void *data, size_t bytes)
{
    if (param == NULL)
        return 1;
    if (param->data_type != type)
        return 0;
    param->return_size = bytes;
    if (param->data == NULL)
        return 1;
    if (param->data_size < bytes)
        return 0;
    memcpy(param->data, data, bytes);
    return 1;
}

int put_bytes(OSSL_PARAM *param, const void *bytes, size_t length)
{
    return put_data(param, OSSL_PARAM_OCTET_STRING, bytes, length);
}

/* A NUL comes along where there is room for it. */
int put_text(OSSL_PARAM *param, const char *text)
{
    size_t length = strlen(text);

    if (!put_data(param, OSSL_PARAM_UTF8_STRING, text, length))
        return 0;
    if (param != NULL && param->data != NULL && param->data_size > length)
        ((char *)param->data)[length] = '\0';
    return 1;
}

/* An int from any width and signedness: the bytes above the lowest four may only repeat the sign. */
int get_int(const OSSL_PARAM *param, int *value)
{
    unsigned char big[8];
    int is_signed = param->data_type == OSSL_PARAM_INTEGER, is_negative;
    uint32_t low;

    if ((!is_signed && param->data_type != OSSL_PARAM_UNSIGNED_INTEGER) || param->data == NULL ||
        param->data_size == 0 || param->data_size > sizeof big)
        return 0;
    copy_native(big, param->data, param->data_size);
    is_negative = is_signed && (big[0] & 0x80) != 0;
    low = is_negative ? UINT32_MAX : 0;
    for (size_t i = 0; i < param->data_size; i++) {
        if (i + 4 < param->data_size && big[i] != (is_negative ? 0xff : 0))
            return 0;
        low = low << 8 | big[i];
    }
    if ((low >> 31) != (uint32_t)is_negative)
        return 0;
    *value = is_negative ? -(int)(~low) - 1 : (int)low;
    return 1;
}

/* Text may lack its NUL; what does not fit is no word that we know. */
int get_text(const OSSL_PARAM *param, char *text, size_t room)
{
    size_t length;

    if (param->data_type != OSSL_PARAM_UTF8_STRING || param->data == NULL)
        return 0;
    length = strnlen(param->data, param->data_size);
    if (length >= room)
        return 0;
    memcpy(text, param->data, length);
    text[length] = '\0';
    return 1;
}
